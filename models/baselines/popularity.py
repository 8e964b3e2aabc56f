"""Popularity: what everybody wanted lately, the same for every user."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.batch import Batch
from models.examples import Examples
from models.log import Log

__all__ = ["Popularity"]

#: Answers that every item is taken to have had already, at the mean rate.
_PRIOR = 20.0


class Popularity(nn.Module):
    """log of an item's positive training examples or, in a log with impressions, of its answered share of them."""

    ids: Tensor
    scores: Tensor

    def __init__(self, ids: Tensor, scores: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", ids)  # [I] int64, ascending
        self.register_buffer("scores", scores)  # [I + 1] float32, the last for items that training never saw

    @classmethod
    def of(cls, log: Log, known: Examples) -> Popularity:
        """Counted on the training examples; in a log with impressions shares are smoothed towards the mean."""
        ids, item = np.unique(log.events.item_id[known.positions], return_inverse=True)
        wanted = np.append(np.bincount(item, weights=known.labels), 0.0)  # [I + 1]
        if known.sampled:
            score = np.log(wanted + 0.5)
        else:
            shown = np.append(np.bincount(item), 0.0)
            score = np.log((wanted + _PRIOR * known.labels.mean()) / (shown + _PRIOR))
        return cls(torch.from_numpy(ids), torch.from_numpy(score.astype(np.float32)))

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B, C], to be compared with each other only."""
        place = torch.searchsorted(self.ids, batch.item_ids).clamp(max=len(self.ids) - 1)  # [U]
        found = torch.where(self.ids[place] == batch.item_ids, place, len(self.ids))
        return self.scores[found][batch.candidates]

    def online_multiply_adds(self) -> int:
        """Nothing: a number is looked up."""
        return 0
