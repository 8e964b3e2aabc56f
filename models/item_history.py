"""What the item tower would have known of users' behaviour just before any event of a log.

The serving fold (domain/item_activity.py) goes over the log's events once and every snapshot that it takes is kept
with the log position of its event. An example at a position sees an item's last snapshot from a strictly earlier one:
its own outcome, and everything after it, is not in what it reads.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.activity_events import ActivityBatch
from domain.activity_row import ACTIVITY_FEATURES, Snapshots
from domain.item_activity import fold
from models.log import Events

__all__ = ["ItemHistory"]

_Int = npt.NDArray[np.int64]

#: Events folded at a time; what comes out does not depend on it.
_PIECE = 20_000


class ItemHistory:
    """All snapshots of a log. Memory: 190 bytes a snapshot, and a row for each item while they are made."""

    def __init__(self, events: Events, interval_ms: int) -> None:
        self._events = events
        rows: dict[int, Any] = {}
        positions, parts = [np.zeros(0, dtype=np.int64)], [Snapshots.none(0)]
        for start in range(0, len(events), _PIECE):
            piece = slice(start, start + _PIECE)
            folded = fold(
                rows, ActivityBatch(events.item_id[piece], events.time_ms[piece], events.action[piece]), interval_ms
            )
            rows |= folded.rows
            positions.append(start + folded.made_by)
            parts.append(folded.snapshots)
        made_at = np.concatenate(positions)
        items = np.searchsorted(self._items, events.item_id[made_at])
        order = np.lexsort((made_at, items))
        self._keys = self._key(items[order], made_at[order])
        #: [snapshots + 1, ACTIVITY_FEATURES]; the last one is of an item without activity.
        self.features = np.concatenate([part.features for part in parts])[order]
        self.features = np.concatenate((self.features, np.zeros((1, ACTIVITY_FEATURES), dtype=np.float32)))

    @cached_property
    def _items(self) -> _Int:
        return np.unique(self._events.item_id)

    def _key(self, item: _Int, position: _Int) -> _Int:
        return np.asarray(item * (len(self._events) + 1) + position, dtype=np.int64)

    def before(self, item_id: _Int, positions: _Int) -> _Int:
        """The snapshot of each item as of just before each log position, as a row of `features` (shapes broadcast)."""
        item_id, positions = np.broadcast_arrays(item_id, positions)
        none = len(self.features) - 1
        if not none:
            return np.zeros(item_id.shape, dtype=np.int64)
        item = np.minimum(np.searchsorted(self._items, item_id), len(self._items) - 1)
        found = np.searchsorted(self._keys, self._key(item, positions), side="left") - 1
        of_item = (found >= 0) & (self._keys[found] >= self._key(item, np.zeros_like(positions)))
        return np.where(of_item & (self._items[item] == item_id), found, none)
