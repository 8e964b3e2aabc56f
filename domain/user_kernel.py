"""The fold's inner loop, compiled: every event of a batch, one at a time, into its user's row.

It does what user_state.py says, in the order of the log, so nothing here is clever: each user's packed state is spread
over small dense arrays, its events are applied, and what is not empty is packed again. While spread, a tile lies in
slot `tile number & 15` of its level, and `number` says which tile a slot holds, so that time moving on shifts nothing:
a tile is dropped when another claims its slot or when the row is packed.

Cost: about 0.3 us an event and 1 us a row. The machine code is cached beside this file; the first call of a new build
compiles for some seconds.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np

from domain.duplicates import EVENT_IDS
from domain.features import RANKED
from domain.windows import CELLS, FIRST_CELL, LONGEST_MS, WINDOWS
from schemas.records import ACTIONS

__all__ = ["COUNTED", "DUPLICATE", "LATE", "NEVER", "REPLAYED", "fold_events"]

#: Verdicts on events.
COUNTED: Final = 0
REPLAYED: Final = 1
DUPLICATE: Final = 2
LATE: Final = 3

#: Newest event time of a row without any: older than any event, and far enough from int64's end not to wrap.
NEVER: Final = -(2**61)

_LEVELS: Final = len(WINDOWS)
_ACTIONS: Final = len(ACTIONS)
_SLOTS: Final = 16
_REGISTERS: Final = 256
_TILE_MS: Final = tuple(window.tile_ms for window in WINDOWS)
_LENGTH_MS: Final = tuple(window.length_ms for window in WINDOWS)
_TILES: Final = tuple(window.tiles for window in WINDOWS)
_FIRST: Final = tuple(FIRST_CELL.tolist())
assert max(_TILES) <= _SLOTS

_N, _SUM, _MIN = 0, 1, 2  # positions in AMOUNT_KINDS of feature_plan.py; max is the fourth


@numba.njit(cache=True)
def _log2_added(total: float, more: float) -> float:
    """log2(2 ** total + 2 ** more) for finite numbers."""
    if total < more:
        total, more = more, total
    return float(total + np.log2(1.0 + np.exp2(more - total)))


@numba.njit(cache=True)
def _register_and_rank(value: int) -> tuple[Any, int]:
    """HyperLogLog register and rank of an id: of its splitmix64 hash, 8 low bits and 1 + zeros that follow them."""
    mixed = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    register, rest, rank = np.int64(mixed & np.uint64(255)), mixed >> np.uint64(8), 1
    while rank < 57 and (rest & np.uint64(1)) == np.uint64(0):
        rest >>= np.uint64(1)
        rank += 1
    return register, rank


@numba.njit(cache=True)
def _clear(
    level: int, slot: int, tile: int, number: Any, counts: Any, amounts: Any, words: Any, amount_table: Any,
    sketch_table: Any,
) -> None:  # fmt: skip
    """Give a slot to a tile, emptied."""
    number[level, slot] = tile
    for action in range(_ACTIONS):
        counts[level, slot, action] = 0
    for each in range(len(amount_table)):
        if amount_table[each, 0] == level:
            amounts[each, slot] = np.nan
    for each in range(len(sketch_table)):
        if sketch_table[each, 0] == level:
            for word in range(_REGISTERS // 8):
                words[each, slot, word] = 0


@numba.njit(cache=True)
def _amount_added(kind: int, held: float, value: float) -> float:
    if kind == _N:
        return 1.0 if np.isnan(held) else held + 1.0
    if np.isnan(held):
        return value
    if kind == _SUM:
        return held + value
    return min(held, value) if kind == _MIN else max(held, value)


@numba.njit(cache=True)
def _count(
    time: int, action: int, item: int, category: int, has_category: bool, value: float,
    oldest: Any, number: Any, counts: Any, amounts: Any, sketches: Any, words: Any, amount_table: Any,
    sketch_table: Any,
) -> None:  # fmt: skip
    """Add an event to its tile of every level that still reaches back to it."""
    bit = np.int64(1) << np.int64(action)
    for level in range(_LEVELS):
        tile = time // _TILE_MS[level]
        if tile < oldest[level]:
            continue
        slot = tile & (_SLOTS - 1)
        if number[level, slot] != tile:
            _clear(level, slot, tile, number, counts, amounts, words, amount_table, sketch_table)
        counts[level, slot, action] += np.uint32(1)
        if not np.isnan(value):
            for each in range(len(amount_table)):
                if amount_table[each, 0] == level and amount_table[each, 2] & bit:
                    amounts[each, slot] = _amount_added(amount_table[each, 1], amounts[each, slot], value)
        for each in range(len(sketch_table)):
            if sketch_table[each, 0] == level and sketch_table[each, 2] & bit:
                if sketch_table[each, 1] and not has_category:
                    continue
                register, rank = _register_and_rank(category if sketch_table[each, 1] else item)
                sketches[each, slot, register] = max(sketches[each, slot, register], np.uint8(rank))


@numba.njit(cache=True)
def _rank_category(category: int, more: float, names: Any, weights: Any, used: int) -> int:
    """Add to a category's weight; the number used.

    In a full ranking the lightest (of equals the first) gives way and leaves its weight to the newcomer (Space-Saving):
    a category of more than a sixteenth of all weight is always there, and too heavy by at most that.
    """
    lightest = 0
    for place in range(used):
        if names[place] == category:
            weights[place] = _log2_added(weights[place], more)
            return used
        if weights[place] < weights[lightest]:
            lightest = place
    if used < RANKED:
        names[used], weights[used] = category, more
        return used + 1
    more = _log2_added(weights[lightest], more)
    for place in range(lightest, RANKED - 1):
        names[place], weights[place] = names[place + 1], weights[place + 1]
    names[RANKED - 1], weights[RANKED - 1] = category, more
    return used


@numba.njit(cache=True)
def _add_beyond_tiles(
    time: int, action: int, category: int, has_category: bool,
    scalars: Any, names: Any, weights: Any, used: Any, scalar_table: Any, ranking_table: Any,
) -> None:  # fmt: skip
    """Add an event to scalars and rankings."""
    bit = np.int64(1) << np.int64(action)
    for each in range(len(scalar_table)):
        if scalar_table[each, 1] & bit:
            half_life, held = scalar_table[each, 0], scalars[each]
            if half_life == 0:
                scalars[each] = float(time) if np.isnan(held) else max(held, float(time))
            else:
                more = time / half_life
                scalars[each] = more if np.isnan(held) else _log2_added(held, more)
    if has_category:
        for each in range(len(ranking_table)):
            if ranking_table[each, 1] & bit:
                more = time / ranking_table[each, 0]
                used[each] = _rank_category(category, more, names[each], weights[each], used[each])


@numba.njit(cache=True)
def _seen(event_id: int, ids: Any, held: int) -> bool:
    for place in range(held):  # noqa: SIM110 (a generator would not compile)
        if ids[place] == event_id:
            return True
    return False


@numba.njit(cache=True)
def _oldest(newest: int, out: Any) -> None:
    """The oldest tile of each level."""
    for level in range(_LEVELS):
        out[level] = (newest - _LENGTH_MS[level]) // _TILE_MS[level]


@numba.njit(cache=True)
def _spread(
    row: int, packed: Any, oldest: Any, number: Any, counts: Any, amounts: Any, sketches: Any,
    words: Any, scalars: Any, names: Any, weights: Any, used: Any, plan: Any,
) -> None:  # fmt: skip
    """A row's packed state into the dense arrays, which are emptied first."""
    _empty(number, scalars, used)
    amount_table, amount_cells, sketch_table, sketch_cells, _, _ = plan
    (tile_cell, tile_count), tile_first, (value_cell, value), value_first, (ranking, category, weight), first = packed
    level, sketch, amount = 0, 0, 0
    for each in range(tile_first[row], tile_first[row + 1]):
        cell, count = np.int64(tile_cell[each]), tile_count[each]
        if cell < CELLS:
            while cell >= _FIRST[level + 1]:
                level += 1
            place, action = (cell - _FIRST[level]) // _ACTIONS, (cell - _FIRST[level]) % _ACTIONS
            tile = oldest[level] + place
            slot = tile & (_SLOTS - 1)
            if number[level, slot] != tile:
                _clear(level, slot, tile, number, counts, amounts, words, amount_table, sketch_table)
            counts[level, slot, action] = count
        else:
            while cell >= sketch_cells[sketch + 1]:
                sketch += 1
            of = sketch_table[sketch, 0]
            tile = oldest[of] + cell - sketch_cells[sketch]
            slot = tile & (_SLOTS - 1)
            if number[of, slot] != tile:
                _clear(of, slot, tile, number, counts, amounts, words, amount_table, sketch_table)
            sketches[sketch, slot, np.int64(count) >> 8] = np.uint8(count & np.uint32(255))
    last = amount_cells[len(amount_table)]
    for each in range(value_first[row], value_first[row + 1]):
        cell = np.int64(value_cell[each])
        if cell >= last:
            scalars[cell - last] = value[each]
            continue
        while cell >= amount_cells[amount + 1]:
            amount += 1
        of = amount_table[amount, 0]
        tile = oldest[of] + cell - amount_cells[amount]
        slot = tile & (_SLOTS - 1)
        if number[of, slot] != tile:
            _clear(of, slot, tile, number, counts, amounts, words, amount_table, sketch_table)
        amounts[amount, slot] = value[each]
    for each in range(first[row], first[row + 1]):
        of = ranking[each]
        names[of, used[of]], weights[of, used[of]] = category[each], weight[each]
        used[of] += 1


@numba.njit(cache=True)
def _empty(number: Any, scalars: Any, used: Any) -> None:
    """Nothing in any slot; what slots held is emptied when they are claimed."""
    for level in range(_LEVELS):
        for slot in range(_SLOTS):
            number[level, slot] = NEVER
    for each in range(len(scalars)):
        scalars[each] = np.nan
    for each in range(len(used)):
        used[each] = 0


@numba.njit(cache=True)
def _pack_tiles(
    oldest: Any, number: Any, counts: Any, sketches: Any, words: Any, plan: Any, out: Any, at: int
) -> int:  # fmt: skip
    """Pack live counts and registers behind `at`; the place behind them."""
    _, _, sketch_table, sketch_cells, _, _ = plan
    out_cell, out_count = out
    for level in range(_LEVELS):
        for place in range(_TILES[level]):
            slot = (oldest[level] + place) & (_SLOTS - 1)
            if number[level, slot] == oldest[level] + place:
                for action in range(_ACTIONS):
                    if counts[level, slot, action]:
                        out_cell[at] = _FIRST[level] + place * _ACTIONS + action
                        out_count[at] = counts[level, slot, action]
                        at += 1
    for each in range(len(sketch_table)):
        level = sketch_table[each, 0]
        for place in range(_TILES[level]):
            slot = (oldest[level] + place) & (_SLOTS - 1)
            if number[level, slot] != oldest[level] + place:
                continue
            for word in range(_REGISTERS // 8):
                if words[each, slot, word] == 0:
                    continue
                for register in range(word * 8, word * 8 + 8):
                    if sketches[each, slot, register]:
                        out_cell[at] = sketch_cells[each] + place
                        out_count[at] = (register << 8) | sketches[each, slot, register]
                        at += 1
    return at


@numba.njit(cache=True)
def _pack_values(oldest: Any, number: Any, amounts: Any, scalars: Any, plan: Any, out: Any, at: int) -> int:
    """Pack live amounts and scalars behind `at`; the place behind them."""
    amount_table, amount_cells, _, _, _, _ = plan
    out_cell, out_value = out
    for each in range(len(amount_table)):
        level = amount_table[each, 0]
        for place in range(_TILES[level]):
            slot = (oldest[level] + place) & (_SLOTS - 1)
            if number[level, slot] == oldest[level] + place and not np.isnan(amounts[each, slot]):
                out_cell[at], out_value[at] = amount_cells[each] + place, amounts[each, slot]
                at += 1
    for each in range(len(scalars)):
        if not np.isnan(scalars[each]):
            out_cell[at], out_value[at] = amount_cells[len(amount_table)] + each, scalars[each]
            at += 1
    return at


@numba.njit(cache=True)
def fold_events(
    first: Any, events: Any, clock_ms: Any, idle_ms: int, applied: Any, newest_ms: Any, ids: Any, ids_held: Any,
    packed: Any, plan: Any, verdict: Any, start: Any, out: Any, ends: Any,
) -> None:  # fmt: skip
    """Fold the events of every row, in place: `applied`, `newest_ms`, `ids`, `ids_held` [rows] and all that follows.

    `first` [rows + 1] cuts `events` (offset, event_id, item_id, event_time_ms, action, category_id, has_category,
    value) and `clock_ms` by row. `ids` is [rows, EVENT_IDS], oldest first. `packed` is the state of all rows: for
    tiles, values and rankings a tuple of columns and [rows + 1] that cuts them by row. Out: `verdict` [events]; `start`
    [rows], -1 or the event at which an expired row began anew; `out`, the columns of the new state, and `ends`
    [rows, 3], where each row's ends in them.
    """
    offset, event_id, item_id, event_time_ms, action, category_id, has_category, value = events
    out_tiles, out_values, (out_ranking, out_category, out_weight) = out
    number = np.empty((_LEVELS, _SLOTS), np.int64)
    counts = np.empty((_LEVELS, _SLOTS, _ACTIONS), np.uint32)
    amounts = np.empty((len(plan[0]), _SLOTS), np.float64)
    sketches = np.empty((len(plan[2]), _SLOTS, _REGISTERS), np.uint8)
    words = sketches.view(np.uint64)  # eight registers at a time
    oldest = np.empty(_LEVELS, np.int64)
    # Unpacked once: each access to an array in a tuple counts references, which costs more than the access.
    amount_table, _, sketch_table, _, scalar_table, ranking_table = plan
    scalars = np.empty(len(plan[4]), np.float64)
    names = np.empty((len(plan[5]), RANKED), np.int64)
    weights = np.empty((len(plan[5]), RANKED), np.float64)
    used = np.empty(len(plan[5]), np.int64)
    at_tile, at_value, at_ranked = 0, 0, 0
    for row in range(len(first) - 1):
        newest, held = newest_ms[row], ids_held[row]
        start[row] = -1
        _oldest(newest, oldest)
        _spread(row, packed, oldest, number, counts, amounts, sketches, words, scalars, names, weights, used, plan)
        for each in range(first[row], first[row + 1]):
            if offset[each] <= applied[row]:
                verdict[each] = REPLAYED
                continue
            applied[row] = offset[each]
            if newest != NEVER and newest < clock_ms[each] - idle_ms:
                start[row], newest, held = each, NEVER, 0
                _empty(number, scalars, used)
            if _seen(event_id[each], ids[row], held):
                verdict[each] = DUPLICATE
                continue
            if held == EVENT_IDS:
                held -= 1
                for place in range(held):
                    ids[row, place] = ids[row, place + 1]
            ids[row, held] = event_id[each]
            held += 1
            time = event_time_ms[each]
            if time < newest - LONGEST_MS:
                verdict[each] = LATE
                continue
            verdict[each] = COUNTED
            if time > newest:
                newest = time
                _oldest(newest, oldest)
            _count(
                time, action[each], item_id[each], category_id[each], has_category[each], value[each],
                oldest, number, counts, amounts, sketches, words, amount_table, sketch_table,
            )  # fmt: skip
            _add_beyond_tiles(
                time, action[each], category_id[each], has_category[each], scalars, names, weights, used,
                scalar_table, ranking_table,
            )  # fmt: skip
        newest_ms[row], ids_held[row] = newest, held
        at_tile = _pack_tiles(oldest, number, counts, sketches, words, plan, out_tiles, at_tile)
        at_value = _pack_values(oldest, number, amounts, scalars, plan, out_values, at_value)
        for each in range(len(plan[5])):
            for place in range(used[each]):
                out_ranking[at_ranked], out_category[at_ranked] = each, names[each, place]
                out_weight[at_ranked] = weights[each, place]
                at_ranked += 1
        ends[row, 0], ends[row, 1], ends[row, 2] = at_tile, at_value, at_ranked
