"""What the scoring processes of a host have seen in the shadow, in one mapped file: a row of sums for each process.

A row is written by one thread and replaced whole (two_buffers.py), so no reader finds half of a request in it. A
process that dies leaves its sums: they go on counting, and the next process takes the row over with them. A row starts
again from nothing when its process compares another pair.

The file belongs to a node, a host's name and this folder: what came here from another host, with a copied or moved data
folder, is not this node's, and is cleared.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import zlib
from dataclasses import astuple
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domain.shadow import Pair, ShadowSums
from schemas.errors import Unavailable
from serving.tables.readers import locked, process_lives
from serving.tables.shared_file import mapped_words, sparse_file
from serving.tables.two_buffers import TwoBuffers

__all__ = ["Seen", "ShadowBoard", "ShadowRow"]

_MAGIC: Final = int.from_bytes(b"AIFSHD01", "little")
_MOST_PROCESSES: Final = 64
#: Of a row: process id (0: free), which buffer counts, two buffers.
_PROCESS, _TURN, _BUFFERS = 0, 1, 8
_BUFFER_WORDS: Final = 16
_ROW_WORDS: Final = _BUFFERS + 2 * _BUFFER_WORDS
_ROWS_AT: Final = 8
_WORDS: Final = _ROWS_AT + _MOST_PROCESSES * _ROW_WORDS
#: Version, live version, build epoch; then the sums.
_ROW: Final = struct.Struct("<QQq4q6d")

_Words = npt.NDArray[np.int64]


class ShadowBoard:
    """The mapped file of a folder; made where there is none. Any process may read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shadow"
        where = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        self.node = f"{socket.gethostname()}-{where}"  #: names the sums of this host and folder among all
        with locked(self._path):
            if not self._path.exists() or self._path.stat().st_size != 8 * _WORDS:
                sparse_file(self._path, 8 * _WORDS)
            self._words = mapped_words(self._path, writable=True)
            owner = [_MAGIC, zlib.crc32(self.node.encode())]
            if self._words[:2].tolist() != owner:
                self._words[:] = 0
                self._words[:2] = owner

    def claim(self) -> ShadowRow:
        """A free row, with the sums that are in it, for this process. Raises Unavailable where there is none."""
        with locked(self._path):
            for words in self._rows():
                if not words[_PROCESS] or not process_lives(int(words[_PROCESS])):
                    words[_PROCESS] = os.getpid()
                    return ShadowRow(words)
        raise Unavailable(f"{_MOST_PROCESSES} processes of this host score from {self._path.parent} already")

    def sums(self, pair: Pair) -> ShadowSums:
        """What all processes have seen of a pair, those that are gone too."""
        found = (row.seen for row in map(ShadowRow, self._rows()))
        return sum((each.sums for each in found if each is not None and each.pair == pair), ShadowSums())

    def _rows(self) -> list[_Words]:
        return list(self._words[_ROWS_AT:].reshape(_MOST_PROCESSES, _ROW_WORDS))


class Seen(NamedTuple):
    """Sums, and the pair that they are of."""

    pair: Pair
    sums: ShadowSums


class ShadowRow:
    """What one process has seen; `seen` is as of this object's last `add`, or its making. One thread adds."""

    def __init__(self, words: _Words) -> None:
        self._words = words
        buffers = words[_BUFFERS:].reshape(2, _BUFFER_WORDS)
        self._buffers = TwoBuffers(words[_TURN : _TURN + 1], buffers)
        self.seen: Seen | None = None
        if data := self._buffers.read():
            version, live, build_epoch, *sums = _ROW.unpack(data)
            self.seen = Seen(Pair(f"{version:016x}", build_epoch, f"{live:016x}"), ShadowSums(*sums))

    def add(self, pair: Pair, sums: ShadowSums) -> None:
        """Add to what was seen of a pair; what was seen of another one is gone."""
        before = self.seen
        seen = Seen(pair, before.sums + sums if before is not None and before.pair == pair else sums)
        tags = int(pair.version, 16), int(pair.live, 16)
        self._buffers.write(_ROW.pack(*tags, pair.build_epoch, *astuple(seen.sums)))
        self.seen = seen

    def release(self) -> None:
        """Give the row back; its sums stay."""
        self._words[_PROCESS] = 0
