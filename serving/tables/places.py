"""Which places of a slab are free, and which are given up but may still be read. Pure bookkeeping of the writer.

A place is *free* (never used, or used again), *held* (an id's row), or in *limbo*: given up in an epoch that a reader
may still be in. The bound on places in limbo is the bound on memory beyond what the rows themselves need.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.errors import Unavailable

__all__ = ["Places"]

Slots = npt.NDArray[np.int64]

_FEWEST_IN_LIMBO: Final = 4096
#: Of held places: how many may be in limbo before readers' leases are revoked.
_LIMBO_SHARE: Final = 4


class Places:
    """Places 0 to `reserved` - 1; those of `held` ([n] int64, distinct) are in use."""

    def __init__(self, reserved: int, held: Slots) -> None:
        self.reserved = reserved
        self.top = int(held.max(initial=-1)) + 1  #: places from here on were never used
        unused = np.ones(self.top, dtype=np.bool_)
        unused[held] = False
        self._free: list[Slots] = [np.flatnonzero(unused)]
        self._limbo: deque[tuple[int, Slots]] = deque()
        self._in_limbo = 0
        self._held = len(held)

    @property
    def in_limbo(self) -> int:
        """Places given up that may still be read."""
        return self._in_limbo

    @property
    def most_in_limbo(self) -> int:
        """How many may be, before leases are revoked."""
        return max(_FEWEST_IN_LIMBO, self._held // _LIMBO_SHARE)

    def take(self, count: int) -> Slots:
        """Free places, used ones before fresh ones. Raises Unavailable where the file has no more."""
        taken: list[Slots] = []
        missing = count
        while missing and self._free:
            some = self._free.pop()
            taken.append(some[:missing])
            if len(some) > missing:
                self._free.append(some[missing:])
            missing -= len(taken[-1])
        if self.top + missing > self.reserved:
            raise Unavailable(f"a slab has {self.reserved} places and needs more: its catalogue is too large")
        taken.append(np.arange(self.top, self.top + missing, dtype=np.int64))
        self.top += missing
        self._held += count
        return np.concatenate(taken)

    def give_up(self, slots: Slots, epoch: int) -> None:
        """Nobody finds these places after this epoch; readers in it may still have them."""
        if len(slots):
            self._limbo.append((epoch, slots))
            self._in_limbo += len(slots)
            self._held -= len(slots)

    def recycle(self, oldest: int) -> None:
        """Free the places given up before the oldest epoch that anybody reads in."""
        while self._limbo and self._limbo[0][0] < oldest:
            _, slots = self._limbo.popleft()
            self._in_limbo -= len(slots)
            self._free.append(slots)
