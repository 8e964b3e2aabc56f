"""How much of a rebuild one piece does, and when the next may begin, so that live updates stay fresh beside it.

A piece holds its partition's lock: an update that arrives meanwhile waits. Without traffic pieces are large, because a
transaction costs the same for a row or ten thousand; while updates come they are as small as keeps that wait to tens
of milliseconds, on this machine and with this model. One piece of a lane is computed at a time, so that of the two
threads for folds one is free for updates of other partitions; pieces are committed beside each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["Pace"]

#: How long after the last update a lane counts as busy.
_BUSY_FOR_S: Final = 30.0
#: What a piece should take, and the most rows of it: of rows that need nothing, a piece would be too large for others.
_BUSY_PIECE: Final = 0.025, 2_000
_IDLE_PIECE: Final = 0.25, 16_000
_FEWEST: Final = 100
#: Before anything was measured.
_ROW_S: Final = 25e-6
#: Pieces a second at most where a rate is asked for.
_PIECES_PER_S: Final = 5


class Pace:
    """One lane's. For use in the event loop."""

    def __init__(self, rows_per_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`rows_per_s` bounds what all pieces together look at; 0 sets no bound."""
        self._rows_per_s, self._clock = rows_per_s, clock
        self._row_s = _ROW_S
        self._updated_at = -_BUSY_FOR_S
        self._next_at = 0.0
        self._taken = False
        self._waiting: list[Callable[[], None]] = []

    def updated(self) -> None:
        """Records of the source were applied just now."""
        self._updated_at = self._clock()

    @property
    def busy(self) -> bool:
        """Whether updates come."""
        return self._clock() - self._updated_at < _BUSY_FOR_S

    @property
    def limit(self) -> int:
        """Rows for the next piece."""
        piece_s, most = _BUSY_PIECE if self.busy else _IDLE_PIECE
        if self._rows_per_s:
            most = min(most, int(self._rows_per_s / _PIECES_PER_S))
        return max(_FEWEST, min(most, int(piece_s / self._row_s)))

    @property
    def wait_s(self) -> float:
        """Seconds until the rate allows another piece; 0 where it does."""
        return max(0.0, self._next_at - self._clock())

    def took(self, rows: int, seconds: float) -> None:
        """A piece looked at so many rows, in so long, committing not included."""
        if rows >= _FEWEST:
            self._row_s += (seconds / rows - self._row_s) / 4
        if rows and self._rows_per_s:
            self._next_at = max(self._next_at, self._clock()) + rows / self._rows_per_s

    def begin(self, wake: Callable[[], None]) -> bool:
        """Take the turn to compute a piece; where another has it, `wake` is called once it is free."""
        if self._taken:
            if wake not in self._waiting:
                self._waiting.append(wake)
            return False
        self._taken = True
        return True

    def end(self) -> None:
        """Give the turn back."""
        self._taken = False
        waiting, self._waiting = self._waiting, []
        for wake in waiting:  # all: the first may be of a partition that is not ours any more
            wake()
