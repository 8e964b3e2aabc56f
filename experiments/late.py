"""What a request would read of a log if items or users were known late, in the place of what it would read at once.

Items of an age are what they were so long before: their state in the catalogue and their activity. An item that did
not exist then is what it was when it came, without activity. Users who are late lack their latest events, in behaviours
and windows; ages and windows are as of the request all the same. Candidates and labels do not change.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from experiments.measured import Data
from models.evaluation.judged import Judged, judged
from models.examples import Batches
from models.history import History
from models.item_history import ItemHistory
from models.log import Catalogue, Log, time_keys

__all__ = ["held_late", "recent_events"]

_Int = npt.NDArray[np.int64]


class _OldCatalogue(Catalogue):
    """The same states, each read as of earlier."""

    _age_ms: int

    def __init__(self, fresh: Catalogue, age_ms: int) -> None:
        vars(self).update(vars(fresh), _age_ms=age_ms)

    def rows_at(self, item_id: _Int, at_ms: _Int) -> _Int:
        """See `Catalogue.rows_at`."""
        row = super().rows_at(item_id, at_ms - self._age_ms)
        first = np.minimum(np.searchsorted(self.item_id, item_id), len(self) - 1)  # rows are sorted by (item, time)
        return np.where((row < 0) & (super().rows_at(item_id, at_ms) >= 0), first, row)


class _OldActivity(ItemHistory):
    """The same snapshots, each read as of earlier."""

    def __init__(self, fresh: ItemHistory, time_ms: _Int, age_ms: int) -> None:
        vars(self).update(vars(fresh))
        #: For every log position the one before which events are old enough.
        self._known = np.minimum(np.searchsorted(time_ms, time_ms - age_ms, side="right"), np.arange(len(time_ms)))

    def before(self, item_id: _Int, positions: _Int) -> _Int:
        """See `ItemHistory.before`."""
        return super().before(item_id, self._known[positions])


class _LateBatches(Batches):
    """The same batches of what is known late."""

    def __init__(self, fresh: Batches, item_age_ms: int, user_lag_ms: int) -> None:
        vars(self).update(vars(fresh))
        log = self._log
        self._log = Log(log.events, _OldCatalogue(log.catalogue, item_age_ms))
        self.activity = _OldActivity(fresh.activity, log.events.time_ms, item_age_ms)
        self._history = History(log.events, user_lag_ms)


def held_late(data: Data, item_age_ms: int = 0, user_lag_ms: int = 0) -> Judged:
    """The judged examples with items of an age and users that late: the same candidates, in the same order."""
    late = judged(data.log, _LateBatches(data.batches, item_age_ms, user_lag_ms), data.tail)
    batches = [
        replace(batch, weights=fresh.weights) for batch, fresh in zip(late.batches, data.held.batches, strict=True)
    ]
    return Judged(batches, data.held.users, data.held.labels)


def recent_events(data: Data, window_ms: int) -> _Int:
    """How many events each judged candidate's item had in the time before it was a candidate ([N])."""
    events = data.log.events
    items = np.unique(events.item_id)
    order = np.argsort(np.searchsorted(items, events.item_id), kind="stable")
    keys = time_keys(np.searchsorted(items, events.item_id)[order], events.time_ms[order], events.time_ms)
    counts, start = [], 0
    for batch in data.held.batches:
        positions = data.tail.positions[start : start + len(batch.labels)]
        start += len(positions)
        wanted = batch.item_ids[batch.candidates].numpy()  # [B, C]
        place = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
        at_ms = events.time_ms[positions][:, None]
        edges = [
            np.searchsorted(keys, time_keys(place, np.broadcast_to(at, place.shape), events.time_ms))
            for at in (at_ms - window_ms, at_ms)
        ]
        found = np.where(items[place] == wanted, edges[1] - edges[0], 0)
        counts.append(found[batch.weights.numpy() > 0])
    return np.concatenate(counts)
