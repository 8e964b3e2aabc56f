"""What every model reads in one training step.

Symbols in shapes are those of models/aif.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """One training step's inputs: users, the candidates of each, and the items that both point at."""

    # items
    item_ids: Tensor  #: [U] int64; no network reads them as they are
    embedding: Tensor  #: [U, embedding_dim] float32
    category: Tensor  #: [U] int64
    numeric: Tensor  #: [U, item_numeric] float32
    identity: Tensor  #: [U] int64 bucket of the id
    signs: Tensor  #: [U, m] float32, +-1; zeros where an item has no signature
    # users
    windows: Tensor  #: [B, F] float32
    behaviours: Tensor  #: [B, L] int64, rows of the items
    actions: Tensor  #: [B, L] int64
    ages: Tensor  #: [B, L] float32
    present: Tensor  #: [B, L] float32, 1 where there is a behaviour and its item is known
    categories: Tensor  #: [B, K] int64, the users' top categories; 0 is none
    cross: Tensor  #: [B, K, X] float32, what they did in them
    # candidates
    candidates: Tensor  #: [B, C] int64, rows of the items
    labels: Tensor  #: [B, C] float32
    weights: Tensor  #: [B, C] float32, 0 leaves a candidate out of the loss

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return replace(self, **{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    @property
    def items(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What an item encoder reads."""
        return self.embedding, self.category, self.numeric, self.identity

    def newest(self, count: int) -> Batch:
        """The same batch with at most `count` behaviours of each user, the newest, and the items that are left."""
        if self.behaviours.shape[1] <= count:
            return self
        behaviours = self.behaviours[:, :count]
        used, place = torch.unique(torch.cat((behaviours.flatten(), self.candidates.flatten())), return_inverse=True)
        return replace(
            self, item_ids=self.item_ids[used], embedding=self.embedding[used], category=self.category[used],
            numeric=self.numeric[used], identity=self.identity[used], signs=self.signs[used],
            behaviours=place[: behaviours.numel()].view_as(behaviours),
            candidates=place[behaviours.numel() :].view_as(self.candidates), actions=self.actions[:, :count],
            ages=self.ages[:, :count], present=self.present[:, :count],
        )  # fmt: skip
