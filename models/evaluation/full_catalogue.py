"""Ranking the whole catalogue for some users, as a pre-ranker without retrieval would: what the best lists keep.

A query is a held-out user as of its first held-out example; its candidates are all items that the catalogue held, not
deleted, when the held-out time began, with their activity up to then; it wants the items of that user's held-out
positives that are among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.examples import Batches, Examples
from models.log import Log

__all__ = ["FullCatalogue", "full_catalogue"]

_Int = npt.NDArray[np.int64]
#: Queries and candidates scored at a time: what the full ranker's attention holds in memory grows with their product.
_QUERIES, _CANDIDATES = 4, 1024


@dataclass(frozen=True)
class FullCatalogue:
    """Queries on the same candidates."""

    batches: Batches
    start: int  #: log position at which the held-out time begins
    states: _Int  #: [Q] log position just before which each user is read
    rows: _Int  #: [N] the candidates' rows of the catalogue
    wanted: npt.NDArray[np.bool_]  #: [Q, N]

    def scores(self, model: nn.Module) -> npt.NDArray[np.float32]:
        """The model's logits [Q, N]."""
        found = np.empty(self.wanted.shape, dtype=np.float32)
        with torch.inference_mode():
            for query in range(0, len(self.states), _QUERIES):
                queries = slice(query, query + _QUERIES)
                states = self.states[queries]
                for start in range(0, len(self.rows), _CANDIDATES):
                    candidates = slice(start, start + _CANDIDATES)
                    rows = np.broadcast_to(self.rows[candidates], (len(states), len(self.rows[candidates])))
                    nothing = np.zeros(rows.shape, dtype=np.float32)
                    batch = self.batches.joined(states, rows, np.full((1, 1), self.start), nothing, nothing)
                    found[queries, candidates] = model(batch).numpy()
        return found


def full_catalogue(log: Log, batches: Batches, held_out: Examples, queries: int) -> FullCatalogue:
    """Up to `queries` users that want something in the held-out examples, evenly spread over user ids."""
    positive = held_out.labels > 0.5
    users, first = np.unique(log.events.user_id[held_out.positions], return_index=True)
    items = np.unique(log.catalogue.item_id)
    rows = log.catalogue.rows_at(items, np.full(len(items), log.events.time_ms[held_out.positions[0]]))
    rows = rows[rows >= 0]
    rows = rows[~log.catalogue.deleted[rows]]
    candidates = log.catalogue.item_id[rows]  # [N], ascending

    buyer = np.searchsorted(users, log.events.user_id[held_out.positions[positive]])
    item = log.events.item_id[held_out.positions[positive]]
    place = np.minimum(np.searchsorted(candidates, item), len(candidates) - 1)
    known = candidates[place] == item
    wanted = np.zeros((len(users), len(candidates)), dtype=np.bool_)
    wanted[buyer[known], place[known]] = True
    asking = np.flatnonzero(wanted.any(1))
    if len(asking) > queries:
        asking = asking[np.linspace(0, len(asking) - 1, queries).astype(np.int64)]
    start = int(held_out.positions[0])
    return FullCatalogue(batches, start, held_out.states[first[asking]], rows, wanted[asking])
