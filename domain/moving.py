"""Behaviours that leave a head: into chunks and the category index, whose layout and rules sequence.py describes.

The index is updated by compiled code: in Python it would cost users with long sequences more than the rest of the fold.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np

from domain.sequence import (
    BEHAVIOUR_DTYPE,
    BEHAVIOURS,
    CHUNK,
    INDEX_DTYPE,
    INDEXED_CATEGORIES,
    INDEXED_EACH,
    KEPT_CHUNKS,
)
from schemas.errors import Corrupt

__all__ = ["Moved", "move", "moves"]

_SIZE: Final = BEHAVIOUR_DTYPE.itemsize
_MOVE: Final = BEHAVIOURS
_HALF_LIFE_MS: Final = 7 * 86_400_000

#: Words of an index row as the kernel sees it: category, weight, used and actions, items, times.
_WORDS: Final = INDEX_DTYPE.itemsize // 8
_ITEMS: Final = 3
_TIMES: Final = _ITEMS + INDEXED_EACH


class Moved(NamedTuple):
    """A head's sequence after behaviours joined it."""

    behaviours: bytes
    moved: int
    category_index: bytes
    #: Chunks that changed, by number; None where one goes.
    chunks: dict[int, bytes | None]


def moves(held_bytes: int, joining: int) -> bool:
    """Whether a head of so many bytes of behaviours may have to move some when so many join."""
    return held_bytes // _SIZE + joining >= BEHAVIOURS + _MOVE


def move(behaviours: bytes, moved: int, index: bytes, open_chunk: bytes) -> Moved:
    """Move what a head must not hold any longer. `open_chunk` is the last chunk where it is not full yet, else b"".

    Raises Corrupt where the open chunk has not the length that `moved` says.
    """
    chunks: dict[int, bytes | None] = {}
    if len(open_chunk) != moved % CHUNK * _SIZE:
        raise Corrupt(
            f"the open chunk of a user has {len(open_chunk)} bytes, expected {moved % CHUNK * _SIZE}: head and chunks "
            "of table users do not belong together; rebuild the table from its log"
        )
    gone: list[bytes] = []
    while len(behaviours) >= (BEHAVIOURS + _MOVE) * _SIZE:
        leaving, behaviours = behaviours[: _MOVE * _SIZE], behaviours[_MOVE * _SIZE :]
        number = moved // CHUNK
        if not open_chunk and number >= KEPT_CHUNKS:
            chunks[number - KEPT_CHUNKS] = None
        open_chunk += leaving
        chunks[number] = open_chunk
        if len(open_chunk) == CHUNK * _SIZE:
            open_chunk = b""
        moved += _MOVE
        gone.append(leaving)
    return Moved(behaviours, moved, _indexed(index, b"".join(gone)), chunks)


def _indexed(index: bytes, leaving: bytes) -> bytes:
    """The category index after behaviours have moved."""
    words = np.zeros((INDEXED_CATEGORIES, _WORDS), dtype=np.int64)
    held = np.frombuffer(index, dtype=np.int64).reshape(-1, _WORDS)
    words[: len(held)] = held
    told = np.frombuffer(leaving, dtype=BEHAVIOUR_DTYPE)
    columns = [
        np.ascontiguousarray(told[name])
        for name in ("item_id", "event_time_ms", "category_id", "has_category", "action")
    ]
    rows = _index(words, words.view(np.float64), len(held), *columns)
    return words[:rows].tobytes()


@numba.njit(cache=True)
def _index(
    words: Any, floats: Any, rows: int, item_id: Any, event_time_ms: Any, category_id: Any, has_category: Any,
    action: Any,
) -> int:  # fmt: skip
    """Enter behaviours into the index, in place; the number of its rows."""
    for each in range(len(item_id)):
        if not has_category[each]:
            continue
        place, lightest = -1, 0
        for row in range(rows):
            if words[row, 0] == category_id[each]:
                place = row
                break
            if floats[row, 1] < floats[lightest, 1]:
                lightest = row
        weight = event_time_ms[each] / _HALF_LIFE_MS
        if place >= 0:
            weight = _log2_added(floats[place, 1], weight)
        else:
            if rows < INDEXED_CATEGORIES:
                place = rows
                rows += 1
            else:
                weight = _log2_added(floats[lightest, 1], weight)
                for row in range(lightest, rows - 1):
                    words[row] = words[row + 1]
                place = rows - 1
            words[place] = 0
            words[place, 0] = category_id[each]
        floats[place, 1] = weight
        _append(words[place], item_id[each], event_time_ms[each], action[each])
    return rows


@numba.njit(cache=True)
def _append(row: Any, item: int, time: int, action: int) -> None:
    """Add to a category's last behaviours; the oldest gives way."""
    used, actions = row[2] & 255, row[2] >> 8
    if used == INDEXED_EACH:
        used -= 1
        actions >>= 8
        for place in range(used):
            row[_ITEMS + place] = row[_ITEMS + place + 1]
            row[_TIMES + place] = row[_TIMES + place + 1]
    row[_ITEMS + used], row[_TIMES + used] = item, time
    row[2] = (actions | (np.int64(action) << (8 * used))) << 8 | (used + 1)


@numba.njit(cache=True)
def _log2_added(total: float, more: float) -> float:
    """log2(2 ** total + 2 ** more) for finite numbers."""
    larger, smaller = max(total, more), min(total, more)
    return float(larger + np.log2(1.0 + np.exp2(smaller - larger)))
