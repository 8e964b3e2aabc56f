"""A served answer made again from rows of the logs, by the plain oracle: nothing of it is shared with what served.

The scores are reference.score; the contribution of a term is its definition taken literally, the logit of the network
less that of the network whose weights of this term are zeros (domain/contributions.py says the same of sums).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from domain.artifact import HEAD, USER_PHASE, Dimensions
from domain.contributions import term_names
from domain.n2o import Flag
from domain.user_features import user_inputs
from models.reference import score, user_feed
from schemas.records import UserHead

__all__ = ["Recomputed", "recompute"]

_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recomputed:
    """One user's network over one moment's rows."""

    dims: Dimensions
    head: Mapping[str, _Float]  #: head.npz
    folded: Mapping[str, _Float]  #: outputs of the user phase
    feed: Mapping[str, npt.NDArray[Any]]  #: its inputs, of one user
    categories: npt.NDArray[np.int64]  #: [K]
    item_ids: npt.NDArray[np.int64]  #: [L] of the behaviours
    records: Mapping[int, Any]  #: rows by item

    def scores(self, item_ids: npt.NDArray[np.int64]) -> _Float:
        """Probabilities of candidates ([n] float32); of those without a servable row as if nothing were known."""
        rows = self.dims.layout.empty(len(item_ids))
        for place, item_id in enumerate(item_ids.tolist()):
            record = self.records.get(item_id)
            if record is not None and not record["flags"] & Flag.DELETED:
                rows[place] = record
        return score(self.dims, self.head, self.folded, self.feed, self.categories, rows)

    def contributions(self, item_id: int) -> dict[str, float]:
        """Of each term to a candidate's logit."""
        whole = self._logit(item_id)
        return {name: whole - without._logit(item_id) for name, without in self._without().items()}

    def similar(self, item_id: int, most: int) -> list[tuple[int, int]]:
        """The behaviours most similar to a candidate, as (place, equal bits): most bits first, newer ones first."""
        record = self.records.get(item_id)
        if record is None or not record["flags"] & Flag.HAS_SIGNATURE or record["flags"] & Flag.DELETED:
            return []
        own = np.unpackbits(record["signature"]).astype(np.float32) * 2 - 1
        past = self.feed["signatures"]
        signed = np.flatnonzero(past.any(axis=1))
        equal = (past[signed] == own).sum(axis=1)
        order = np.argsort(-equal, kind="stable")[:most]
        return [(int(signed[place]), int(equal[place])) for place in order.tolist()]

    def _logit(self, item_id: int) -> float:
        probability = float(self.scores(np.array([item_id], dtype=np.int64))[0])
        return float(np.log(probability / (1 - probability)))

    def _without(self) -> dict[str, Recomputed]:
        """This network with the weights of one term after the other zeroed."""
        dims = self.dims
        weights = [
            ("vector_weight", slice(None)),
            ("bias", slice(None)),
            *(("bridge_weight", slice(row, row + 1)) for row in range(dims.bridges)),
            ("signature_weight", slice(None)),
            *(
                ("tier_weight", slice(group * dims.tiers, (group + 1) * dims.tiers))
                for group in range(len(dims.tier_groups))
            ),
            ("attention_weight", slice(None)),
            ("category_weight", slice(None)),
        ]
        return {name: self._zeroed(*each) for name, each in zip(term_names(dims), weights, strict=True)}

    def _zeroed(self, name: str, rows: slice) -> Recomputed:
        arrays = self.head if name in self.head else self.folded
        weight = arrays[name].copy()
        weight[rows] = 0
        without = {**arrays, name: weight}
        return replace(self, head=without) if name in self.head else replace(self, folded=without)


def recompute(
    artifact: Path, dims: Dimensions, head: UserHead | None, behaviours: npt.NDArray[Any], at_ms: int,
    records: npt.NDArray[Any],
) -> Recomputed:  # fmt: skip
    """The network of a user at a time, from a checked artifact's folder, the user's row and newest behaviours first
    (BEHAVIOUR_DTYPE), and the items' N2O rows."""
    inputs = user_inputs([head], [behaviours], np.array([at_ms], dtype=np.int64), dims)
    feed, categories = user_feed(inputs, records, dims)
    session = onnxruntime.InferenceSession(artifact / USER_PHASE, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    outputs = session.run(names, feed)
    with np.load(artifact / HEAD, allow_pickle=False) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    return Recomputed(
        dims, weights, {name: output[0] for name, output in zip(names, outputs, strict=True)},
        {name: value[0] for name, value in feed.items()}, categories[0], inputs.item_ids[0],
        {int(record["item_id"]): record for record in records},
    )  # fmt: skip
