"""Lines of the board (epochs.py) and who reads with which: each thread of each process has one of its own.

A line is claimed once by a thread, under a lock on the board's file, and given back when the thread ends. Lines of
processes that are gone are taken over; what their last reader may have held is revoked with them.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import Unavailable
from serving.tables.epochs import FIRST_LINE, Words, board_words
from serving.tables.shared_file import mapped_words, sparse_file
from serving.tables.slab_kernel import ANNOUNCED, READER_WORDS

__all__ = ["Readers", "locked", "process_lives"]

#: Threads of one host that read at the same time.
_MOST_READERS: Final = 1024
_OWNER: Final = 2  #: word of a line: process id of who reads with it, 0 where nobody does


class Readers:
    """The board of one host's serving state. Making it makes the file where there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with locked(path):
            if not path.exists() or path.stat().st_size != 8 * board_words(_MOST_READERS):
                sparse_file(path, 8 * board_words(_MOST_READERS))
            self.board = mapped_words(path, writable=True)
        self._mine = threading.local()

    def line(self) -> tuple[Words, int]:
        """The board, and the word at which the calling thread's line begins. Raises Unavailable where none is free."""
        held: _Line | None = getattr(self._mine, "line", None)
        if held is None or held.process != os.getpid():
            held = self._mine.line = self._claim()
        return self.board, held.word

    def _claim(self) -> _Line:
        lines = self.board[FIRST_LINE:].reshape(-1, READER_WORDS)
        with locked(self._path):
            owners = lines[:, _OWNER].tolist()
            row = owners.index(0) if 0 in owners else _abandoned(owners)
            if row is not None:
                lines[row, ANNOUNCED] = 0
                lines[row, _OWNER] = os.getpid()
                return _Line(self.board, FIRST_LINE + row * READER_WORDS)
        raise Unavailable(f"{_MOST_READERS} threads of this host read at once: no line of {self._path} is free")


class _Line:
    """One thread's line, given back with the object."""

    def __init__(self, board: Words, word: int) -> None:
        self._board = board
        self.word = word
        self.process = os.getpid()

    def __del__(self) -> None:
        if self.process == os.getpid():  # not in a forked copy
            self._board[self.word + _OWNER] = 0


def _abandoned(owners: list[int]) -> int | None:
    """The line of a process that is gone."""
    return next((row for row, owner in enumerate(owners) if not process_lives(owner)), None)


def process_lives(process: int) -> bool:
    """Whether a process of this host runs; True also for one that is stopped."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this host with this file."""
    with path.with_name(path.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
