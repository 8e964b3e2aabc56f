"""The fold's inner loop, compiled: every event of a batch, one at a time, into its user's encoded row.

It does what user_state.py says, in the order of the log. A row's fields are copied to small byte arrays, changed there
in place (tile_kernel.py, decay_kernel.py, sequence_kernel.py), and written behind the rows before it; Python touches a
row only to look it up and to cut it out. All of it compiles on import, for some seconds in a fresh checkout; the
machine code is kept (compiled.py). The bytes are those of schema user_head (user_row.py checks that they are), whose
longs and bytes Avro encodes as packed.py says.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
from numba import types

from domain.compiled import njit
from domain.decay_kernel import RANKED_BYTES, add_ranked, add_scalars
from domain.duplicates import EVENT_IDS
from domain.feature_plan import REGISTERS
from domain.features import RANKED
from domain.packed import load_i64, move, read_long, skip_varints, store_i64, write_long
from domain.sequence import BEHAVIOUR_VARINTS, BLOCK, INDEX_DTYPE, INDEXED_CATEGORIES
from domain.sequence_kernel import BEHAVIOUR_BYTES, index_block, write_behaviour
from domain.tile_kernel import add_amounts, add_counts, add_registers, expire_tiles, tile_numbers
from domain.windows import LONGEST_MS, SLOTS, TILE_DTYPE, WINDOWS
from schemas.records import ACTIONS

__all__ = [
    "COMPILE_S", "COUNTED", "DUPLICATE", "LATE", "NEVER", "REPLAYED", "ROW_BYTES", "event_bytes", "fold_rows",
    "scratch_of",
]  # fmt: skip

#: Verdicts on events.
COUNTED: Final = 0
REPLAYED: Final = 1
DUPLICATE: Final = 2
LATE: Final = 3

#: Newest event time of a row without any: older than any event, and far enough from int64's end not to wrap.
NEVER: Final = -(2**61)

_LEVELS: Final = len(WINDOWS)
_ID_BYTES: Final = 8
_INDEX_BYTES: Final = INDEXED_CATEGORIES * INDEX_DTYPE.itemsize
#: Longs of a row behind its prefix, and then its fields of bytes, in the order of the schema.
_TOPIC, _OFFSET, _NEWEST, _COUNTED, _LAST, _LONGS = range(6)
_TILES, _VALUES, _REGISTERS, _RANKED, _IDS, _BEHAVIOURS, _INDEX, _FIELDS = range(8)
#: What a row can have beyond what it had before and what its events add.
ROW_BYTES: Final = 128 + _INDEX_BYTES


def event_bytes(plan: Any) -> int:
    """What an event adds to a row at most, of the plan with these tables."""
    amounts, sketches, scalars, rankings = map(len, plan)
    tiles = _LEVELS * TILE_DTYPE.itemsize + 10 * (amounts + scalars) + 4 * sketches
    return int(tiles + RANKED_BYTES * rankings + _ID_BYTES + BEHAVIOUR_BYTES)


def scratch_of(plan: Any) -> tuple[Any, ...]:
    """Where `fold_rows` keeps the row in hand, for the plan with these tables: for one thread at a time."""
    amounts, sketches, scalars, rankings = map(len, plan)
    index = np.empty((INDEXED_CATEGORIES, INDEX_DTYPE.itemsize // 8), np.int64)
    return (
        np.empty((_LEVELS * SLOTS * len(ACTIONS) + 1) * TILE_DTYPE.itemsize, np.uint8),
        np.empty(10 * (amounts * SLOTS + scalars + 1), np.uint8),
        np.empty(4 * (sketches * SLOTS * REGISTERS + 1), np.uint8),
        np.empty(RANKED_BYTES * (rankings * RANKED + 1), np.uint8),
        np.empty(EVENT_IDS * _ID_BYTES, np.uint8),
        np.empty(2 * BLOCK * BEHAVIOUR_BYTES, np.uint8),
        index.reshape(-1).view(np.uint8), index, index.view(np.float64), np.empty(8, np.uint8),
        np.empty(_LONGS, np.int64), np.empty(_FIELDS, np.int64), *(np.empty(_LEVELS, np.int64) for _ in range(3)),
    )  # fmt: skip


@njit(_nrt=False)
def _remembered(ids: Any, used: int, event_id: int) -> bool:
    for at in range(0, used, _ID_BYTES):  # noqa: SIM110 (a generator would not compile)
        if load_i64(ids, at) == event_id:
            return True
    return False


@njit(_nrt=False)
def _remember(ids: Any, used: int, event_id: int) -> int:
    """Add an id, the oldest gives way; the bytes used then."""
    if used == EVENT_IDS * _ID_BYTES:
        used -= _ID_BYTES
        move(ids, 0, ids, _ID_BYTES, used)
    store_i64(ids, used, event_id)
    return used + _ID_BYTES


@njit(_nrt=False)
def _read_field(rows: Any, at: int, end: int, target: Any) -> tuple[int, int]:
    """Copy a field of bytes; its length, and the place behind it: beyond `end` where no such field fits."""
    if at >= end:
        return 0, end + 1
    count, at = read_long(rows, at)
    if count < 0 or count > len(target) or at + count > end:
        return 0, end + 1
    move(target, 0, rows, at, count)
    return count, at + count


@njit(_nrt=False)
def _read_row(
    rows: Any, at: int, end: int, longs: Any, used: Any, tiles: Any, values: Any, registers: Any, ranked: Any, ids: Any,
    behaviours: Any, index: Any,
) -> bool:  # fmt: skip
    """Whether the row ends where its fields do: of a damaged one nothing is written beyond the scratch."""
    for each in range(_LONGS):
        if at >= end:
            return False
        longs[each], at = read_long(rows, at)
    used[_TILES], at = _read_field(rows, at, end, tiles)
    used[_VALUES], at = _read_field(rows, at, end, values)
    used[_REGISTERS], at = _read_field(rows, at, end, registers)
    used[_RANKED], at = _read_field(rows, at, end, ranked)
    used[_IDS], at = _read_field(rows, at, end, ids)
    used[_BEHAVIOURS], at = _read_field(rows, at, end, behaviours)
    used[_INDEX], at = _read_field(rows, at, end, index)
    return bool(at == end)


@njit(_nrt=False)
def _write_field(out: Any, at: int, source: Any, count: int) -> int:
    at = write_long(out, at, count)
    move(out, at, source, 0, count)
    return at + count


@njit(_nrt=False)
def _write_row(
    out: Any, at: int, prefix: Any, longs: Any, used: Any, tiles: Any, values: Any, registers: Any, ranked: Any,
    ids: Any, behaviours: Any, index: Any,
) -> int:  # fmt: skip
    """Write a row; the place behind it."""
    move(out, at, prefix, 0, len(prefix))
    at += len(prefix)
    for each in range(_LONGS):
        at = write_long(out, at, longs[each])
    at = _write_field(out, at, tiles, used[_TILES])
    at = _write_field(out, at, values, used[_VALUES])
    at = _write_field(out, at, registers, used[_REGISTERS])
    at = _write_field(out, at, ranked, used[_RANKED])
    at = _write_field(out, at, ids, used[_IDS])
    at = _write_field(out, at, behaviours, used[_BEHAVIOURS])
    return _write_field(out, at, index, used[_INDEX])


@njit(_nrt=False)
def _begin(longs: Any, used: Any) -> None:
    """A row without anything."""
    longs[_NEWEST], longs[_COUNTED] = NEVER, 0
    for each in range(_FIELDS):
        used[each] = 0


@njit(_nrt=False)
def _has_prefix(rows: Any, at: int, end: int, prefix: Any) -> bool:
    if end - at < len(prefix):
        return False
    for each in range(len(prefix)):  # noqa: SIM110 (a generator would not compile)
        if rows[at + each] != prefix[each]:
            return False
    return True


@njit(_nrt=False)
def _count(
    at_ms: int, action: int, item: int, category: int, has_category: bool, value: float, longs: Any, used: Any,
    tiles: Any, values: Any, registers: Any, ranked: Any, number: Any, newest: Any, gone: Any,
    amount_table: Any, sketch_table: Any, scalar_table: Any, ranking_table: Any,
) -> None:  # fmt: skip
    """Add an event to windows and declared features. `number` and `gone` [levels] are scratch."""
    tile_numbers(at_ms, number)
    if at_ms > longs[_NEWEST]:
        longs[_NEWEST] = at_ms
        if number[0] != newest[0]:
            expire_tiles(newest, number, gone, tiles, values, registers, used, amount_table, sketch_table)
            for level in range(_LEVELS):
                newest[level] = number[level]
    used[_TILES] = add_counts(tiles, used[_TILES], number, newest, action)
    if not np.isnan(value):
        used[_VALUES] = add_amounts(values, used[_VALUES], number, newest, action, value, amount_table)
    used[_VALUES] = add_scalars(values, used[_VALUES], len(amount_table), at_ms, action, scalar_table)
    used[_REGISTERS] = add_registers(
        registers, used[_REGISTERS], number, newest, action, item, category, has_category, sketch_table
    )
    if has_category:
        used[_RANKED] = add_ranked(ranked, used[_RANKED], at_ms, action, category, ranking_table)


@njit(_nrt=False)
def _join(
    at_ms: int, action: int, item: int, category: int, has_category: bool, value: float, longs: Any, used: Any,
    behaviours: Any, index: Any, words: Any, floats: Any, word: Any, blocks: Any, block_at: Any, moved: int,
) -> int:  # fmt: skip
    """Add an event to the sequence; the number of blocks that have left heads then."""
    since_ms = at_ms - longs[_LAST] if longs[_COUNTED] % BLOCK else at_ms
    used[_BEHAVIOURS] = write_behaviour(
        behaviours, used[_BEHAVIOURS], item, since_ms, action, category, has_category, value, word
    )
    longs[_LAST] = at_ms
    longs[_COUNTED] += 1
    if longs[_COUNTED] % BLOCK or longs[_COUNTED] == BLOCK:
        return moved
    end, at = skip_varints(behaviours, 0, BLOCK * BEHAVIOUR_VARINTS), block_at[moved]
    used[_INDEX] = index_block(behaviours, 0, words, floats, used[_INDEX])
    move(blocks, at, behaviours, 0, end)
    used[_BEHAVIOURS] -= end
    move(behaviours, 0, behaviours, end, used[_BEHAVIOURS])
    block_at[moved + 1] = at + end
    return moved + 1


_COMPILING: Final = time.perf_counter()
_READ_ONLY: Final = types.Array(types.uint8, 1, "C", readonly=True)
_U1, _I1, _I8, _F8 = types.uint8[::1], types.int8[::1], types.int64[::1], types.float64[::1]
_PAIRS: Final = types.int64[:, ::1]


@njit(
    types.int64(
        _READ_ONLY, _I8, _READ_ONLY, types.int64, _I8, _I8,
        types.Tuple((_I8, _I8, _I8, _I8, _U1, _I8, types.boolean[::1], _F8)), _I8, types.int64,
        types.UniTuple(_PAIRS, 4), _I1, _U1, _I8, _PAIRS, _I8, _U1, _I8,
        types.Tuple((*[_U1] * 7, _PAIRS, types.float64[:, ::1], _U1, *[_I8] * 5)),
    ), _nrt=False,
)  # fmt: skip
def fold_rows(
    rows: Any, row_at: Any, prefix: Any, topic_id: int, order: Any, first: Any, events: Any, clock_ms: Any,
    idle_ms: int, plan: Any, verdict: Any, out: Any, out_at: Any, counted: Any, expired: Any, blocks: Any,
    block_at: Any, scratch: Any,
) -> int:  # fmt: skip
    """Fold the events of every row; the number of blocks that left heads, or -1 - row at a row that is not to be read.

    `rows`, cut by `row_at` [rows + 1], are the encoded heads, empty where there is none; all begin with `prefix`.
    `order` [events] are the events (columns offset, event_id, item_id, event_time_ms, action, category_id,
    has_category, value; and `clock_ms`) by row, and `first` [rows + 1] cuts it.

    Out: `verdict` [events]; `out`, cut by `out_at` [rows + 1], are the heads, empty where nothing changed; `counted`
    [rows, 2] is how many behaviours a row had ever counted before, and has now; `expired` [rows] is how often it ended
    and began anew; `blocks`, cut by `block_at` [blocks + 1], are the blocks that left heads, by row, oldest first.
    """
    offsets, event_ids, items, times, actions, categories, have_category, event_values = events
    amounts, sketches, scalars, rankings = plan
    tiles, values, registers, ranked, ids, behaviours, index, words, floats, word, longs, used = scratch[:12]
    number, newest, gone = scratch[12:]
    moved = 0
    out_at[0] = block_at[0] = 0
    for row in range(len(first) - 1):
        _begin(longs, used)
        longs[_TOPIC], longs[_OFFSET] = topic_id, -1
        if row_at[row] < row_at[row + 1]:
            if not _has_prefix(rows, row_at[row], row_at[row + 1], prefix):
                return -1 - row
            at, end = row_at[row] + len(prefix), row_at[row + 1]
            if not _read_row(rows, at, end, longs, used, tiles, values, registers, ranked, ids, behaviours, index):
                return -1 - row
            if longs[_TOPIC] != topic_id:
                longs[_TOPIC], longs[_OFFSET] = topic_id, -1
        tile_numbers(longs[_NEWEST], newest)
        counted[row, 0], expired[row], moved_before, changed = longs[_COUNTED], 0, moved, False
        for place in range(first[row], first[row + 1]):
            each = order[place]
            at_ms = times[each]
            if offsets[each] <= longs[_OFFSET]:
                verdict[each] = REPLAYED
                continue
            longs[_OFFSET] = offsets[each]
            changed = True
            if longs[_NEWEST] != NEVER and longs[_NEWEST] < clock_ms[each] - idle_ms:
                expired[row] += 1
                moved = moved_before  # what has left the row of this batch goes with it
                _begin(longs, used)
            if _remembered(ids, used[_IDS], event_ids[each]):
                verdict[each] = DUPLICATE
                continue
            used[_IDS] = _remember(ids, used[_IDS], event_ids[each])
            if at_ms < longs[_NEWEST] - LONGEST_MS:
                verdict[each] = LATE
                continue
            verdict[each] = COUNTED
            _count(
                at_ms, np.int64(actions[each]), items[each], categories[each], have_category[each], event_values[each],
                longs, used, tiles, values, registers, ranked, number, newest, gone, amounts, sketches, scalars,
                rankings,
            )  # fmt: skip
            moved = _join(
                at_ms, np.int64(actions[each]), items[each], categories[each], have_category[each], event_values[each],
                longs, used, behaviours, index, words, floats, word, blocks, block_at, moved,
            )  # fmt: skip
        at = out_at[row]
        if changed:
            at = _write_row(
                out, at, prefix, longs, used, tiles, values, registers, ranked, ids, behaviours, index
            )  # fmt: skip
        out_at[row + 1] = at
        counted[row, 1] = longs[_COUNTED]
    return moved


#: Seconds that it took to compile all this, or to find it compiled.
COMPILE_S: Final = time.perf_counter() - _COMPILING
