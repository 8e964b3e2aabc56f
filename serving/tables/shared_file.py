"""Files that several processes map: their words as numpy arrays, and writing them so that nobody sees a half.

A mapping lives as long as an array that was made from it; the file may be unlinked meanwhile.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["mapped_words", "sparse_file"]


def sparse_file(path: Path, size: int) -> None:
    """Make a file of `size` bytes, all zero, that takes disk and memory only where it is written."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def mapped_words(path: Path, writable: bool) -> npt.NDArray[np.int64]:
    """A file's whole words ([bytes / 8] int64), shared with every process that maps it. Raises OSError, ValueError."""
    descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size // 8 * 8
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return np.frombuffer(mmap.mmap(descriptor, size, access=access), dtype=np.int64)
    finally:
        os.close(descriptor)
