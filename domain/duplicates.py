"""Which events repeat one of the last `EVENT_IDS` ids that their row accepted.

The rule, one event at a time: an event whose id is among the row's last ids is a duplicate and changes nothing; any
other is accepted and its id becomes the row's newest. This module reaches the same verdicts for a batch of many rows
without a loop over events. The bound is the promise: an id that returns after `EVENT_IDS` others is a new event.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["EVENT_IDS", "find_duplicates"]

#: Ids that a row remembers.
EVENT_IDS: Final = 32

_ID_BYTES: Final = 8
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


def find_duplicates(
    remembered: list[bytes], event_id: npt.NDArray[np.int64], owner: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether each event is a duplicate ([n] bool).

    `remembered` holds each row's accepted ids, oldest first, packed int64, `EVENT_IDS` at most. `owner` ([n] int64)
    is each event's row, ascending; events of a row are in log order.
    """
    width = EVENT_IDS * _ID_BYTES
    ring = np.frombuffer(b"".join([ids.rjust(width, b"\0") for ids in remembered]), dtype="<i8")
    ring = ring.reshape(len(remembered), EVENT_IDS)
    counts = np.array([len(ids) for ids in remembered], dtype=np.int64) // _ID_BYTES
    used = np.arange(EVENT_IDS) >= EVENT_IDS - counts[:, None]
    if not _may_repeat(ring, event_id, owner):
        return np.zeros(len(event_id), dtype=np.bool_)
    rows = np.arange(len(remembered))
    all_owners = np.concatenate([np.repeat(rows, counts), owner])
    all_ids = np.concatenate([ring[used], event_id])
    is_event = np.concatenate([np.zeros(int(counts.sum()), np.bool_), np.ones(len(event_id), np.bool_)])
    order = np.argsort(all_owners, kind="stable")
    accepted = _accepted(all_owners[order], all_ids[order])
    return np.asarray(~accepted[is_event[order]])


def _may_repeat(ring: npt.NDArray[np.int64], event_id: npt.NDArray[np.int64], owner: npt.NDArray[np.int64]) -> bool:
    """Cheap test that is False only where no id repeats, which is the rule: duplicates come in storms."""
    if (ring[owner] == event_id[:, None]).any():
        return True
    mixed = np.sort(event_id.view(np.uint64) * _MIX ^ owner.view(np.uint64))
    return bool((mixed[1:] == mixed[:-1]).any())


def _accepted(owner: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each id is accepted ([n] bool); `owner` ascending, ids of an owner in log order.

    A verdict depends on earlier verdicts alone. Each round derives all of them from the round before, so the first k
    repeats of an owner are right after k rounds and a round that changes nothing has found the answer. Two or three
    rounds are usual, for only ids that return after more than `EVENT_IDS` others can change a verdict.
    """
    places = np.arange(len(ids))
    order = np.lexsort((places, ids, owner))
    starts = np.ones(len(ids), dtype=np.bool_)
    starts[1:] = (owner[order][1:] != owner[order][:-1]) | (ids[order][1:] != ids[order][:-1])
    group_start = np.maximum.accumulate(np.where(starts, places, 0))
    accepted = np.ones(len(ids), dtype=np.bool_)
    accepted[order] = starts
    while True:
        # Accepted ids before each place, of all owners: only differences within an owner are used.
        rank: npt.NDArray[np.int64] = np.cumsum(accepted) - accepted
        last = np.maximum.accumulate(np.where(accepted[order], places, -1))
        before = np.concatenate([[-1], last[:-1]])
        known = before >= group_start
        near = rank[order] - rank[order[before]] <= EVENT_IDS
        verdict = np.empty_like(accepted)
        verdict[order] = ~(known & near)
        if np.array_equal(verdict, accepted):
            return accepted
        accepted = verdict
