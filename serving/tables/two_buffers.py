"""Some bytes in mapped memory that one process replaces and any may read: never half old and half new.

Two buffers are filled in turn, each with its length and checksum, and a word says which one is whole. A writer that is
killed in the middle leaves the other buffer as it was; a reader that is overtaken finds a checksum that is wrong, and
looks again.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["TwoBuffers"]

_HEADER_BYTES: Final = 16
_TRIES: Final = 10


class TwoBuffers:
    """Over the word that says which buffer counts ([1] int64), and the buffers ([2, words] int64), zero at first."""

    def __init__(self, turn: npt.NDArray[np.int64], buffers: npt.NDArray[np.int64]) -> None:
        self._turn = turn
        self._buffers = buffers
        self.most_bytes = 8 * buffers.shape[1] - _HEADER_BYTES

    def write(self, data: bytes) -> None:
        """Replace what is there with at most `most_bytes` bytes. One writer at a time."""
        other = 1 - (int(self._turn[0]) & 1)
        buffer = self._buffers[other]
        buffer.view(np.uint8)[_HEADER_BYTES : _HEADER_BYTES + len(data)] = np.frombuffer(data, dtype=np.uint8)
        buffer[0], buffer[1] = len(data), zlib.crc32(data)
        self._turn[0] = other

    def read(self) -> bytes:
        """What was written last; empty where nothing was, or where a writer was faster every time."""
        for _ in range(_TRIES):
            buffer = self._buffers[int(self._turn[0]) & 1].copy()
            data: bytes = buffer.tobytes()[_HEADER_BYTES : _HEADER_BYTES + max(0, int(buffer[0]))]
            if data and zlib.crc32(data) == buffer[1]:
                return data
        return b""
