"""Behaviours as they join a head and leave it in blocks, compiled; sequence.py says how they are packed."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from domain.compiled import njit
from domain.decay_kernel import index_behaviour
from domain.packed import LONGEST_VARINT, load_i64, read_long, read_varint, store_f64, write_long, write_varint
from domain.sequence import BEHAVIOUR_VARINTS, BLOCK, INDEX_DTYPE

__all__ = ["BEHAVIOUR_BYTES", "index_block", "write_behaviour"]

#: Bytes of a packed behaviour at most.
BEHAVIOUR_BYTES: Final = 1 + (BEHAVIOUR_VARINTS - 1) * LONGEST_VARINT
_INDEX_BYTES: Final = INDEX_DTYPE.itemsize


@njit(_nrt=False)
def write_behaviour(
    behaviours: Any, used: int, item: int, since_ms: int, action: int, category: int, has_category: bool, value: float,
    word: Any,
) -> int:  # fmt: skip
    """Write a behaviour behind `used`; the bytes used then. `word` [8] is scratch."""
    has_value = not np.isnan(value)
    behaviours[used] = np.uint8(action << 2 | has_value << 1 | has_category)
    used = write_long(behaviours, used + 1, item)
    used = write_long(behaviours, used, since_ms)
    used = write_long(behaviours, used, category if has_category else 0)
    if not has_value:
        behaviours[used] = 0
        return used + 1
    store_f64(word, 0, value)
    return write_varint(behaviours, used, _reversed(np.uint64(load_i64(word, 0))))


@njit(_nrt=False)
def _reversed(word: Any) -> Any:
    """A word with its bytes in reverse."""
    found = np.uint64(0)
    for _ in range(8):
        found = found << np.uint64(8) | word & np.uint64(255)
        word >>= np.uint64(8)
    return found


@njit(_nrt=False)
def index_block(block: Any, at: int, words: Any, floats: Any, used: int) -> int:
    """Enter the block that begins at `at` into the category index; the bytes that the index uses then."""
    rows, time = used // _INDEX_BYTES, 0
    for _ in range(BLOCK):
        kind = np.int64(block[at])
        item, at = read_long(block, at + 1)
        since_ms, at = read_long(block, at)
        category, at = read_long(block, at)
        _, at = read_varint(block, at)
        time += since_ms
        if kind & 1:
            rows = index_behaviour(words, floats, rows, item, time, category, kind >> 2)
    return rows * _INDEX_BYTES
