"""Epochs: when nobody can be reading an old place any more, so that it may be written again.

The board is shared memory: an epoch, which the one writer raises after every change, and a line for each reader. A
reader announces the epoch that it finds, only then looks where rows are, copies them, and takes the announcement back.
The writer uses a place again when every announced epoch is newer than the one in which the place was given up.

A reader may stop in between for as long as it likes (SIGSTOP, a debugger, a dead process). Where that would cost more
memory than the bound allows, the writer *revokes* its lease, which is a ticket: the reader finds out when it takes the
announcement back, throws away what it copied, and begins again. Each word has one writer, so nothing here ever waits.

::

    reader   ticket += 1 ─ announce ─ fence ─ look up, copy ─ fence ─ ticket > revoked ? done : again
    writer   change ─ fence ─ epoch += 1 ─ fence ─ oldest announced that is not revoked ─ use places given up before
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from serving.tables.slab_kernel import ANNOUNCED, EPOCH, READER_WORDS, REVOKED_TICKET, TICKET, fence

__all__ = ["FIRST_LINE", "Epochs", "Words", "board_words"]

Words = npt.NDArray[np.int64]

#: Word of the board at which the first reader's line begins.
FIRST_LINE: Final = 64
_NOBODY: Final = 2**62


def board_words(readers: int) -> int:
    """Words of a board for so many readers."""
    return FIRST_LINE + readers * READER_WORDS


class Epochs:
    """The writer's side of a board ([board_words] int64)."""

    def __init__(self, board: Words) -> None:
        self._board = board
        self._lines = board[FIRST_LINE:].reshape(-1, READER_WORDS)
        self.revocations = 0
        board[EPOCH] = max(1, int(board[EPOCH]))  # 0 announces nothing

    @property
    def now(self) -> int:
        """The epoch that readers announce."""
        return int(self._board[EPOCH])

    def advance(self) -> int:
        """End the epoch in which something was given up; returns that epoch."""
        fence()
        ended = self.now
        self._board[EPOCH] = ended + 1
        fence()
        return ended

    def oldest(self) -> int:
        """The oldest epoch that a reader with a lease has announced; beyond every epoch where nobody reads."""
        # An announcement is looked at before its ticket: a later reading can only make it count, never drop it.
        announced = self._lines[:, ANNOUNCED].copy()
        held = self._lines[:, REVOKED_TICKET] < self._lines[:, TICKET]
        return int(np.min(announced, where=(announced > 0) & held, initial=_NOBODY))

    def revoke(self, before: int) -> int:
        """Take their lease from readers that announced an epoch before this one; how many."""
        announced = self._lines[:, ANNOUNCED].copy()
        stalled = [
            line
            for line in np.flatnonzero((announced > 0) & (announced < before)).tolist()
            if self._lines[line, REVOKED_TICKET] < self._lines[line, TICKET]
        ]
        for line in stalled:
            self._lines[line, REVOKED_TICKET] = self._lines[line, TICKET]
        fence()
        self.revocations += len(stalled)
        return len(stalled)
