"""An id -> slot hash over numpy arrays: open addressing, whole batches at a time.

A Python dict needs about 0.5 us an id when cold (2 ms for 4,000 candidates out of a million); here a batch is a few
array operations per probe round, because at most half of the table is ever in use. Not synchronised: one writer, and
readers that hold the owner's lock.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["IdIndex"]

_EMPTY: Final = -1
_REMOVED: Final = -2  #: a removed entry keeps the probe chains that run through it whole
_ID, _SLOT = 0, 1
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SMALLEST: Final = 1024

Ids = npt.NDArray[np.int64]


class IdIndex:
    """Slots by id. Every int64 is a valid id; slots are at least 0."""

    def __init__(self, expected: int = 0) -> None:
        self._entries = _empty_entries(expected)
        self._used = 0  #: entries that are not empty, removed ones included
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._entries.nbytes

    def find(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Slot of each id ([n] int64), -1 where there is none. Ids may repeat."""
        return self._probe(ids)[1]

    def fits(self, more: int) -> bool:
        """Whether `insert` of that many new ids keeps the table at most half full."""
        return 2 * (self._used + more) <= len(self._entries)

    def grown(self, more: int) -> IdIndex:
        """A copy with room for `more` new ids and without removed entries. `self` stays as it is."""
        live = self._entries[self._entries[:, _SLOT] >= 0]
        copy = IdIndex(2 * (len(live) + more))
        copy.insert(live[:, _ID], live[:, _SLOT])
        return copy

    def insert(self, ids: Ids, slots: npt.NDArray[np.int64]) -> None:
        """Add ids that are distinct and not in the index; the caller has seen to it that they fit."""
        entries, last = self._entries, np.int64(len(self._entries) - 1)
        at, waiting = self._home(ids), np.arange(len(ids))
        while len(waiting):
            here = at[waiting]
            free = np.flatnonzero(entries[here, _SLOT] < 0)
            # Several ids may want one free place: the first takes it, the others move on as if it had been taken.
            _, first = np.unique(here[free], return_index=True)
            placed = free[first]
            self._used += int(np.count_nonzero(entries[here[placed], _SLOT] == _EMPTY))
            chosen = waiting[placed]
            entries[here[placed], _ID] = ids[chosen]
            entries[here[placed], _SLOT] = slots[chosen]
            waiting = np.delete(waiting, placed)
            at[waiting] = (at[waiting] + 1) & last
        self._size += len(ids)

    def remove(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Remove distinct ids; returns the slots of those that were there."""
        at, slots = self._probe(ids)
        at, slots = at[slots >= 0], slots[slots >= 0]
        self._entries[at, _SLOT] = _REMOVED
        self._size -= len(at)
        return slots

    def _home(self, ids: Ids) -> npt.NDArray[np.int64]:
        with np.errstate(over="ignore"):
            mixed = np.ascontiguousarray(ids).view(np.uint64) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
        return (mixed & np.uint64(len(self._entries) - 1)).view(np.int64)

    def _probe(self, ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where each id's probing ends ([n] int64) and the slot found there ([n] int64), -1 where the id is absent."""
        last = np.int64(len(self._entries) - 1)
        at = self._home(ids)
        slots, going = self._match(at, ids)
        waiting = np.flatnonzero(going)
        while len(waiting):
            at[waiting] = (at[waiting] + 1) & last
            slots[waiting], going = self._match(at[waiting], ids[waiting])
            waiting = waiting[going]
        return at, slots

    def _match(self, at: npt.NDArray[np.int64], ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Slots where the entry is the id's, else -1 ([n] int64), and whether the probe chain goes on ([n] bool)."""
        # Whole entries are taken: a take from one column would first copy that column.
        entries = np.take(self._entries, at, axis=0, mode="clip")
        held = entries[:, _SLOT]
        found = (entries[:, _ID] == ids) & (held >= 0)
        return np.where(found, held, -1), ~found & (held != _EMPTY)


def _empty_entries(expected: int) -> npt.NDArray[Any]:
    size = max(_SMALLEST, 1 << (2 * expected - 1).bit_length()) if expected else _SMALLEST
    entries = np.zeros((size, 2), dtype=np.int64)
    entries[:, _SLOT] = _EMPTY
    return entries
