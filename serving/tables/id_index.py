"""An id -> slot hash in shared memory: open addressing, whole batches at a time, one writer, readers without locks.

An entry is two words. The first is the id, which never changes once the entry is used; the second says that the entry
was never used, that its id is not there now, or its slot (slab_kernel.py). So a reader that sees a slot has seen its
id, and to move a row, or to remove it, is one store. Removed entries keep their id: a table of ids that turn over fills
up, and is then made anew beside, with the ids that are there, as when it grows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from serving.tables.slab_kernel import EMPTY, FIRST_SLOT, REMOVED, claim, find, locate, publish

__all__ = ["IdIndex", "entries_for"]

Ids = npt.NDArray[np.int64]

_SMALLEST: Final = 1024


def entries_for(ids: int) -> int:
    """Entries of a table that so many ids fill by at most half, a power of two."""
    return max(_SMALLEST, 1 << (2 * ids - 1).bit_length()) if ids else _SMALLEST


class IdIndex:
    """The writer's side of a table ([entries, 2] int64, zeros where it is new). Every int64 is a valid id."""

    def __init__(self, entries: Ids) -> None:
        self.entries = entries
        self._used = int(np.count_nonzero(entries[:, 1] != EMPTY))

    def find(self, ids: Ids) -> Ids:
        """Slot of each id ([n] int64), -1 where there is none. Ids may repeat."""
        slots = np.empty(len(ids), dtype=np.int64)
        find(self.entries, ids, slots)
        return slots

    def fits(self, ids: Ids) -> bool:
        """Whether these ids, were all of them new, keep the table at most half full."""
        return 2 * (self._used + len(ids)) <= len(self.entries)

    def publish(self, header: Ids, ids: Ids, slots: Ids) -> Ids:
        """Set the slots of distinct ids, -1 to remove one; returns those that they had, where they had any.

        The caller has seen to it that they fit. Readers see all of it at once, by the header's word.
        """
        places = np.empty(len(ids), dtype=np.int64)
        locate(self.entries, ids, places)
        if (slots < 0).any():
            there = (places >= 0) | (slots >= 0)
            ids, slots, places = ids[there], slots[there], places[there]
        self._used += claim(self.entries, ids, places)
        before = self.entries[places, 1]
        publish(header, self.entries, places, np.where(slots < 0, REMOVED, slots + FIRST_SLOT))
        held: Ids = before[before >= FIRST_SLOT] - FIRST_SLOT
        return held

    def live(self) -> tuple[Ids, Ids]:
        """All ids that are there ([n] int64), and their slots."""
        live = self.entries[self.entries[:, 1] >= FIRST_SLOT]
        return live[:, 0].copy(), live[:, 1] - FIRST_SLOT
