"""The feeder's side of a roll-out: when the version that answers may be replaced, and by which.

The newest announced version that a scoring process could load is the candidate. It goes live, by one store on the
control page, when its rows cover the catalogue and every scoring process has it loaded and warm; a process that does
not manage within `_PATIENCE_S` is not waited for and goes on with the version before until it does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from serving.feeding.store_writer import StoreWriter
from serving.rollout.control import ControlPage

__all__ = ["Rollout"]

_PATIENCE_S: Final = 10.0
#: Versions announced after the live one whose slabs are protected.
_MOST_NEWER: Final = 2

_log = logging.getLogger(__name__)


class Rollout:
    """Belongs to the thread that applies."""

    def __init__(
        self, writer: StoreWriter, control: ControlPage, gate: float, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._writer = writer
        self._control = control
        self._gate = gate
        self._now_s = monotonic_s
        self._covered: tuple[int, float] = (0, 0.0)  #: the candidate that reached the gate, and when

    def advance(self, announced: list[int]) -> bool:
        """Make the candidate among these tags (oldest first) live where it may be; says whether it did."""
        rows = self._control.warm_rows()
        warm = frozenset(tag for row in rows for tag in row.tags)
        candidate = next((tag for tag in reversed(announced) if tag in warm), 0)
        self._sort_slabs(announced)
        if candidate in (0, self._control.live) or not self._is_covered(candidate):
            return False
        waited = self._now_s() - self._covered[1] >= _PATIENCE_S
        if not waited and not all(candidate in row.tags for row in rows):
            return False
        self._control.live = candidate
        slab = self._writer.slabs.get(candidate)
        _log.info("model %016x is live (%d rows)", candidate, len(slab) if slab else 0)
        self._sort_slabs(announced)
        return True

    def may_take_over(self, announced: list[int]) -> bool:
        """Whether this state can answer in the place of another one: with the version that is live, or a newer one."""
        live = self._control.live
        wanted = {live, *announced[announced.index(live) if live in announced else 0 :]} - {0}
        return not live or any(self._is_covered(tag) for tag in wanted)

    def _is_covered(self, candidate: int) -> bool:
        """Whether a version has the rows that it needs, noting since when."""
        store = self._writer.store
        if not len(store.items) or store.coverage(candidate) < self._gate:
            return False
        if self._covered[0] != candidate:
            self._covered = candidate, self._now_s()
        return True

    def _sort_slabs(self, announced: list[int]) -> None:
        """Protect the slabs of the live version and of newer ones, drop those of the ones before it."""
        live = self._control.live
        at = announced.index(live) if live in announced else -1
        newer = announced[at + 1 :]
        self._writer.keep(frozenset([live, *newer[-_MOST_NEWER:]]))
        self._writer.drop(tag for tag in announced[: max(at, 0)] if tag not in (live, *newer))
