"""The model as it was trained, in eager torch, over a shop in memory: what N2O records and scores must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from integration.shop import Shop
from torch import Tensor

from domain.activity_row import Snapshots
from domain.cross_features import cross_features
from domain.item_features import item_inputs
from domain.lsh import hyperplanes
from models.aif import AIF, Candidates, Past, served

__all__ = ["Recompute", "signature_of"]


class Recompute:
    """Item vectors of a shop as it is now, with the activity that its system has settled on, and scores over them.

    Row 0 stands for an item of which nothing is known.
    """

    def __init__(self, model: AIF, shop: Shop) -> None:
        self._model, self._shop, self._dims = model.eval(), shop, model.config.dimensions
        updates: list[Any] = list(shop.items.values())
        self._row = {update["item_id"]: row for row, update in enumerate(updates, 1)}
        self._deleted = {update["item_id"] for update in updates if update["op"] == "delete"}
        activity = Snapshots.of([shop.activity.get(update["item_id"]) for update in updates])
        inputs = item_inputs(updates, self._dims, activity)
        signs = [signature_of(update["embedding"], model) * 2.0 - 1 for update in updates]
        has = torch.tensor([[float(update["embedding"] is not None)] for update in updates])
        with torch.no_grad():
            vectors, bridges = model.tower(*map(torch.from_numpy, inputs.columns(self._dims)))
        self.vectors, self.bridges = _below_zeros(vectors), _below_zeros(bridges)  # [1 + items, ...], not rounded
        self._signs = _below_zeros(torch.tensor(np.array(signs), dtype=torch.float32) * has)
        self._category = np.append(0, inputs.category)

    def row(self, item: int) -> int:
        """The item's row in `vectors` and `bridges`."""
        return self._row[item]

    def scores(self, user: int, at_ms: int, candidates: Sequence[int]) -> npt.NDArray[np.float32]:
        """Probabilities of candidates for a user at a time ([n] float32)."""
        of = self._shop.inputs(user, at_ms, self._dims)
        behaviours = torch.tensor([[self._row.get(item, 0) for item in of.item_ids[0].tolist()]])  # [1, L]
        present = torch.from_numpy(of.present) & (behaviours > 0)
        behaviours = torch.where(present, behaviours, 0)
        rows = [0 if item in self._deleted else self._row.get(item, 0) for item in candidates]
        model, known = self._model, present.float()
        categories, cross = cross_features(
            self._category[behaviours.numpy()], of.actions, of.ages, present.numpy(), self._dims.cross_categories
        )
        actions, past_signs = torch.from_numpy(of.actions), self._signs[behaviours]
        with torch.no_grad():
            vectors, bridges = served(self.vectors), served(self.bridges)
            folded = model.user(
                torch.from_numpy(of.windows), vectors[behaviours], past_signs, actions, torch.from_numpy(of.ages),
                known, torch.from_numpy(cross),
            )  # fmt: skip
            own = vectors[rows][None], bridges[rows][None], self._signs[rows][None]
            category = torch.from_numpy(self._category[rows])[None]
            past = Past(past_signs, actions, torch.from_numpy(categories))
            logits = model.head(Candidates(*own, category), past, folded)
        scores: npt.NDArray[np.float32] = torch.sigmoid(logits)[0].numpy()
        return scores


def signature_of(embedding: bytes | None, model: AIF) -> npt.NDArray[np.uint8]:
    """The signature's bits ([m] of 0 and 1), zeros without an embedding."""
    config = model.config
    if embedding is None:
        return np.zeros(config.signature_bits, dtype=np.uint8)
    planes = hyperplanes(config.signature_seed, config.signature_bits, config.embedding_dim).astype(np.float64)
    return (planes @ np.frombuffer(embedding, dtype="<f4").astype(np.float64) >= 0).astype(np.uint8)


def _below_zeros(values: Tensor) -> Tensor:
    return torch.cat((torch.zeros(1, values.shape[1]), values))
