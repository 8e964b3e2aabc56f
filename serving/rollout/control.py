"""The control page: what the feeder tells the scoring processes of its host, and they it, in one mapped file.

Single words are read per request: which version is live (one store, seen by every process at once), which state is
current, since when the data is old. The rest is text that people read (two_buffers.py).
Each scoring process has a row for the versions that it has loaded and warmed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from schemas.errors import Unavailable
from serving.tables.readers import locked, process_lives
from serving.tables.shared_file import mapped_words, sparse_file
from serving.tables.two_buffers import TwoBuffers

__all__ = ["ControlPage", "WarmRow"]

_MAGIC: Final = int.from_bytes(b"AIFCTL01", "little")
_WORDS: Final = 64 << 10
_MAGIC_AT, _STATE_AT, _LIVE_AT, _CURRENT_AT, _HEARTBEAT_AT, _TEXT_AT, _DAMAGED_AT = range(0, 56, 8)
_ROWS_AT: Final = 64
_ROW_WORDS: Final = 8
_MOST_PROCESSES: Final = 64
_MOST_WARM: Final = 4
_TEXTS_AT: Final = _ROWS_AT + _ROW_WORDS * _MOST_PROCESSES
_TEXT_WORDS: Final = 8 << 10


class ControlPage:
    """The mapped page; made where there is none. Words are written by the feeder alone, but for `report_damage`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with locked(path):
            if not path.exists() or path.stat().st_size != 8 * _WORDS:
                sparse_file(path, 8 * _WORDS)
            self._words = mapped_words(path, writable=True)
            if self._words[_MAGIC_AT] != _MAGIC:
                self._words[:] = 0
                self._words[_MAGIC_AT] = _MAGIC
        texts = self._words[_TEXTS_AT : _TEXTS_AT + 2 * _TEXT_WORDS].reshape(2, _TEXT_WORDS)
        self._text = TwoBuffers(self._words[_TEXT_AT : _TEXT_AT + 1], texts)

    @property
    def state(self) -> int:
        """Number of the state folder to read, 0 while there is none (state.py)."""
        return int(self._words[_STATE_AT])

    @state.setter
    def state(self, number: int) -> None:
        self._words[_STATE_AT] = number

    @property
    def live(self) -> int:
        """Tag of the version that answers, 0 while none does. One word: to set it is the switch."""
        return int(self._words[_LIVE_AT : _LIVE_AT + 1].view(np.uint64)[0])

    @live.setter
    def live(self, tag: int) -> None:
        self._words[_LIVE_AT] = np.uint64(tag).view(np.int64)

    @property
    def current_at_ns(self) -> int | None:
        """When the feeder last proved that it held everything (monotonic ns of this boot), None before it did."""
        return int(self._words[_CURRENT_AT]) or None

    @current_at_ns.setter
    def current_at_ns(self, at_ns: int | None) -> None:
        self._words[_CURRENT_AT] = at_ns or 0

    @property
    def heartbeat_ns(self) -> int:
        """When the feeder last said that it is there (monotonic ns)."""
        return int(self._words[_HEARTBEAT_AT])

    @heartbeat_ns.setter
    def heartbeat_ns(self, at_ns: int) -> None:
        self._words[_HEARTBEAT_AT] = at_ns

    @property
    def damaged(self) -> int:
        """Number of the state in which a reader found damage, 0 where none did."""
        return int(self._words[_DAMAGED_AT])

    def report_damage(self, state: int) -> None:
        """Any process: what was read of a state is not as it was written; the feeder makes another."""
        self._words[_DAMAGED_AT] = state

    def say(self, status: dict[str, Any]) -> None:
        """Replace the text. What is too long for its place is cut to its single values."""
        text = orjson.dumps(status)
        if len(text) > self._text.most_bytes:
            text = orjson.dumps({name: value for name, value in status.items() if not isinstance(value, dict | list)})
        self._text.write(text)

    def said(self) -> dict[str, Any]:
        """The newest text; empty where none was said yet."""
        text = self._text.read()
        found: dict[str, Any] = orjson.loads(text) if text else {}
        return found

    def warm_rows(self) -> list[WarmRow]:
        """The rows of processes that run."""
        rows = (WarmRow(self._row(number)) for number in range(_MOST_PROCESSES))
        return [row for row in rows if row.process and process_lives(row.process)]

    def claim_row(self) -> WarmRow:
        """A free row, for this process. Raises Unavailable where there is none."""
        with locked(self._path):
            for words in map(self._row, range(_MOST_PROCESSES)):
                if not words[0] or not process_lives(int(words[0])):
                    words[1:] = 0
                    words[0] = os.getpid()
                    return WarmRow(words)
        raise Unavailable(f"{_MOST_PROCESSES} processes of this host score from {self._path.parent} already")

    def _row(self, number: int) -> npt.NDArray[np.int64]:
        start = _ROWS_AT + number * _ROW_WORDS
        return self._words[start : start + _ROW_WORDS]


class WarmRow:
    """What one scoring process says of itself: its id, and the tags of the versions that it could answer with."""

    def __init__(self, words: npt.NDArray[np.int64]) -> None:
        self._words = words

    @property
    def process(self) -> int:
        """Process id, 0 in a row that is free."""
        return int(self._words[0])

    @property
    def tags(self) -> frozenset[int]:
        """Versions that are loaded and warm."""
        return frozenset(int(tag) for tag in self._words[1 : 1 + _MOST_WARM].view(np.uint64) if tag)

    @tags.setter
    def tags(self, tags: frozenset[int]) -> None:
        padded = np.zeros(_MOST_WARM, dtype=np.uint64)
        padded[: len(tags)] = sorted(tags)[:_MOST_WARM]
        self._words[1 : 1 + _MOST_WARM] = padded.view(np.int64)

    def release(self) -> None:
        """Give the row back."""
        self._words[:] = 0
