"""What a row keeps as decayed weight, compiled: scalars, rankings, and the category index of the sequence.

Weights are log2 of what they weigh at time zero (feature_plan.py). Rankings and index are bounded by Space-Saving: when
one more category comes, the lightest (of equals the first) gives way and leaves the newcomer its weight, so that a
category of more than a sixteenth (of the index: an eighth) of all weight is always there, too heavy by at most that.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from domain.compiled import njit
from domain.features import RANKED
from domain.packed import insert, load_f64, load_i64, load_u16, move, store_f64, store_i64, store_u16
from domain.sequence import INDEX_DTYPE, INDEXED_CATEGORIES, INDEXED_EACH
from domain.tile_kernel import place_of
from domain.windows import SLOT_BITS

__all__ = ["RANKED_BYTES", "add_ranked", "add_scalars", "index_behaviour"]

_VALUE_BYTES: Final = 10
#: An entry of a ranking: which (u8), category (i64), weight (f64); by ranking, then in the order in which they came.
RANKED_BYTES: Final = 17
_INDEX_HALF_LIFE_MS: Final = 7 * 86_400_000

#: Words of an index row: category, weight, used and actions, items, times.
_WORDS: Final = INDEX_DTYPE.itemsize // 8
_ITEMS: Final = 3
_TIMES: Final = _ITEMS + INDEXED_EACH


@njit(_nrt=False)
def _log2_added(total: float, more: float) -> float:
    """log2(2 ** total + 2 ** more) for finite numbers."""
    if total < more:
        total, more = more, total
    return float(total + np.log2(1.0 + np.exp2(more - total)))


@njit(_nrt=False)
def add_scalars(values: Any, used: int, first: int, time: int, action: int, table: Any) -> int:
    """Add an event to the scalars, whose cells follow `first` amounts."""
    for each in range(len(table)):
        if not table[each, 1] >> action & 1:
            continue
        half_life, cell = table[each, 0], (first + each) << SLOT_BITS
        more = float(time) if half_life == 0 else time / half_life
        at = place_of(values, _VALUE_BYTES, used, cell)
        if at == used or np.int64(load_u16(values, at)) != cell:
            used = insert(values, at, used, _VALUE_BYTES)
            store_u16(values, at, np.uint16(cell))
        elif half_life == 0:
            more = max(more, load_f64(values, at + 2))
        else:
            more = _log2_added(load_f64(values, at + 2), more)
        store_f64(values, at + 2, more)
    return used


@njit(_nrt=False)
def add_ranked(ranked: Any, used: int, time: int, action: int, category: int, table: Any) -> int:
    """Add an event of a category to the rankings."""
    at = 0
    for each in range(len(table)):
        begin = at
        while at < used and ranked[at] == each:
            at += RANKED_BYTES
        if table[each, 1] >> action & 1:
            grown = _rank(ranked, begin, at, used, each, category, time / table[each, 0])
            at += grown - used
            used = grown
    return used


@njit(_nrt=False)
def _rank(ranked: Any, begin: int, end: int, used: int, ranking: int, category: int, more: float) -> int:
    """Add to a category's weight in the ranking that lies from `begin` to `end`; the bytes used then."""
    lightest = begin
    for at in range(begin, end, RANKED_BYTES):
        weight = load_f64(ranked, at + 9)
        if load_i64(ranked, at + 1) == category:
            store_f64(ranked, at + 9, _log2_added(weight, more))
            return used
        if weight < load_f64(ranked, lightest + 9):
            lightest = at
    if end - begin < RANKED * RANKED_BYTES:
        used = insert(ranked, end, used, RANKED_BYTES)
    else:
        more = _log2_added(load_f64(ranked, lightest + 9), more)
        end -= RANKED_BYTES
        move(ranked, lightest, ranked, lightest + RANKED_BYTES, end - lightest)
    ranked[end] = np.uint8(ranking)
    store_i64(ranked, end + 1, category)
    store_f64(ranked, end + 9, more)
    return used


@njit(_nrt=False)
def index_behaviour(words: Any, floats: Any, rows: int, item: int, time: int, category: int, action: int) -> int:
    """Enter a behaviour into the index ([categories, words] int64, and the same as float64); the number of its rows."""
    place, lightest = -1, 0
    for row in range(rows):
        if words[row, 0] == category:
            place = row
            break
        if floats[row, 1] < floats[lightest, 1]:
            lightest = row
    weight = time / _INDEX_HALF_LIFE_MS
    if place >= 0:
        floats[place, 1] = _log2_added(floats[place, 1], weight)
    else:
        if rows < INDEXED_CATEGORIES:
            place = rows
            rows += 1
        else:
            weight = _log2_added(floats[lightest, 1], weight)
            place = rows - 1
            for row in range(lightest, place):
                for word in range(_WORDS):
                    words[row, word] = words[row + 1, word]
        for word in range(_WORDS):
            words[place, word] = 0
        words[place, 0], floats[place, 1] = category, weight
    _append(words, place, item, time, action)
    return rows


@njit(_nrt=False)
def _append(words: Any, row: int, item: int, time: int, action: int) -> None:
    """Add to a category's last behaviours; the oldest gives way."""
    used, actions = words[row, 2] & 255, words[row, 2] >> 8
    if used == INDEXED_EACH:
        used -= 1
        actions >>= 8
        for place in range(used):
            words[row, _ITEMS + place] = words[row, _ITEMS + place + 1]
            words[row, _TIMES + place] = words[row, _TIMES + place + 1]
    words[row, _ITEMS + used], words[row, _TIMES + used] = item, time
    words[row, 2] = (actions | (np.int64(action) << (8 * used))) << 8 | (used + 1)
