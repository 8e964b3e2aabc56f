"""What a row keeps by tile, compiled: counts, amounts and registers, as sorted entries in byte arrays.

An entry is found by bisection and changed in place, or inserted; nothing is unpacked. Entries are

* counts: cell (u16, windows.py), count (u32);
* values: cell (u16: amount or scalar of the plan << 3 | slot), value (f64); scalars lie behind the amounts;
* registers: one u32: cell (sketch of the plan << 3 | slot) << 16 | register << 8 | rank.

When a row's newest event time moves on, `expire_*` drop the entries of tiles that its windows have left, so that a
slot never holds two tiles.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np

from domain.compiled import njit
from domain.packed import (
    insert,
    load_f64,
    load_u16,
    load_u32,
    move,
    store_f64,
    store_u16,
    store_u32,
)
from domain.windows import ACTION_BITS, SLOT_BITS, SLOTS, TILE_DTYPE, WINDOWS

__all__ = ["add_amounts", "add_counts", "add_registers", "expire_tiles", "place_of", "tile_numbers"]

_LEVELS: Final = len(WINDOWS)
_TILE_MS: Final = tuple(window.tile_ms for window in WINDOWS)
_LENGTH_TILES: Final = tuple(window.length_ms // window.tile_ms for window in WINDOWS)
_TILE_BYTES: Final = TILE_DTYPE.itemsize
_VALUE_BYTES: Final = 10
_REGISTER_BYTES: Final = 4
#: So that two times in one tile of the first level share their tiles of every level.
assert all(coarse % fine == 0 for fine, coarse in pairwise(_TILE_MS))
_N, _SUM, _MIN = 0, 1, 2  # positions in AMOUNT_KINDS of feature_plan.py; max is the fourth


@njit(_nrt=False)
def tile_numbers(time: int, tiles: Any) -> None:
    """The number of the tile of every level that a time lies in, into [levels]."""
    for level in range(_LEVELS):
        tiles[level] = time // _TILE_MS[level]


@njit(_nrt=False)
def place_of(entries: Any, size: int, used: int, cell: int) -> int:
    """Where the first entry of this cell or a higher one begins; entries begin with a u16 cell."""
    low, high = 0, used // size
    while low < high:
        middle = (low + high) >> 1
        if np.int64(load_u16(entries, middle * size)) < cell:
            low = middle + 1
        else:
            high = middle
    return low * size


@njit(_nrt=False)
def add_counts(tiles: Any, used: int, number: Any, newest: Any, action: int) -> int:
    """Count an event of the tiles `number` [levels] where the row, whose newest event is of `newest`, reaches back."""
    for level in range(_LEVELS):
        tile = number[level]
        if tile < newest[level] - _LENGTH_TILES[level]:
            continue
        cell = level << (SLOT_BITS + ACTION_BITS) | (tile & (SLOTS - 1)) << ACTION_BITS | action
        at = place_of(tiles, _TILE_BYTES, used, cell)
        if at == used or np.int64(load_u16(tiles, at)) != cell:
            used = insert(tiles, at, used, _TILE_BYTES)
            store_u16(tiles, at, np.uint16(cell))
            store_u32(tiles, at + 2, np.uint32(1))
        else:
            store_u32(tiles, at + 2, load_u32(tiles, at + 2) + np.uint32(1))
    return used


@njit(_nrt=False)
def _amount_added(kind: int, held: float, value: float) -> float:
    if kind == _N:
        return held + 1.0
    if kind == _SUM:
        return held + value
    return min(held, value) if kind == _MIN else max(held, value)


@njit(_nrt=False)
def add_amounts(values: Any, used: int, number: Any, newest: Any, action: int, value: float, table: Any) -> int:
    """Add an event's value to the amounts of its tiles."""
    for each in range(len(table)):
        level = table[each, 0]
        tile = number[level]
        if not table[each, 2] >> action & 1 or tile < newest[level] - _LENGTH_TILES[level]:
            continue
        kind, cell = table[each, 1], each << SLOT_BITS | (tile & (SLOTS - 1))
        at = place_of(values, _VALUE_BYTES, used, cell)
        if at == used or np.int64(load_u16(values, at)) != cell:
            used = insert(values, at, used, _VALUE_BYTES)
            store_u16(values, at, np.uint16(cell))
            store_f64(values, at + 2, 1.0 if kind == _N else value)
        else:
            store_f64(values, at + 2, _amount_added(kind, load_f64(values, at + 2), value))
    return used


@njit(_nrt=False)
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


@njit(_nrt=False)
def add_registers(
    registers: Any, used: int, number: Any, newest: Any, action: int, item: int, category: int, has_category: bool,
    table: Any,
) -> int:  # fmt: skip
    """Add an event's item or category to the sketches of its tiles."""
    for each in range(len(table)):
        level = table[each, 0]
        tile = number[level]
        if not table[each, 2] >> action & 1 or tile < newest[level] - _LENGTH_TILES[level]:
            continue
        if table[each, 1] and not has_category:
            continue
        register, rank = _register_and_rank(category if table[each, 1] else item)
        entry = (each << SLOT_BITS | (tile & (SLOTS - 1))) << 16 | register << 8
        low, high = 0, used // _REGISTER_BYTES
        while low < high:
            middle = (low + high) >> 1
            if np.int64(load_u32(registers, middle * _REGISTER_BYTES)) < entry:
                low = middle + 1
            else:
                high = middle
        at = low * _REGISTER_BYTES
        if at == used or np.int64(load_u32(registers, at)) >> 8 != entry >> 8:
            used = insert(registers, at, used, _REGISTER_BYTES)
            store_u32(registers, at, np.uint32(entry | rank))
        elif np.int64(load_u32(registers, at)) & 255 < rank:
            store_u32(registers, at, np.uint32(entry | rank))
    return used


@njit(_nrt=False)
def expire_tiles(
    newest: Any, now: Any, gone: Any, tiles: Any, values: Any, registers: Any, used: Any, amount_table: Any,
    sketch_table: Any,
) -> None:  # fmt: skip
    """Drop what is older than the windows of a row reach whose newest tiles [levels] move from `newest` to `now`.

    `used` [3] are the bytes of tiles, values and registers; `gone` [levels] is scratch: tiles that each level moves.
    """
    top = -1
    for level in range(_LEVELS):
        gone[level] = min(now[level] - newest[level], SLOTS)
        if gone[level]:
            top = level
    if used[0]:
        used[0] = _expire_counts(tiles, used[0], newest, gone, top)
    for each in range(len(amount_table)):
        if gone[amount_table[each, 0]] and used[1]:
            used[1] = _expire_values(values, used[1], newest, gone, amount_table)
            break
    for each in range(len(sketch_table)):
        if gone[sketch_table[each, 0]] and used[2]:
            used[2] = _expire_registers(registers, used[2], newest, gone, sketch_table)
            break


@njit(_nrt=False)
def _lives(slot: int, newest: Any, gone: Any, level: int) -> bool:
    """Whether the slot's tile is none of the first `gone` that the row kept."""
    return ((slot - newest[level] + _LENGTH_TILES[level]) & (SLOTS - 1)) >= gone[level]


@njit(_nrt=False)
def _expire_counts(tiles: Any, used: int, newest: Any, gone: Any, top: int) -> int:
    """Levels above `top` have not moved, and lie behind."""
    at, kept, end = 0, 0, place_of(tiles, _TILE_BYTES, used, (top + 1) << (SLOT_BITS + ACTION_BITS))
    while at < end:
        cell = np.int64(load_u16(tiles, at))
        if _lives(cell >> ACTION_BITS, newest, gone, cell >> (SLOT_BITS + ACTION_BITS)):
            store_u16(tiles, kept, np.uint16(cell))
            store_u32(tiles, kept + 2, load_u32(tiles, at + 2))
            kept += _TILE_BYTES
        at += _TILE_BYTES
    if kept < end:
        move(tiles, kept, tiles, end, used - end)
    return used - end + kept


@njit(_nrt=False)
def _expire_values(values: Any, used: int, newest: Any, gone: Any, table: Any) -> int:
    at, kept, end = 0, 0, place_of(values, _VALUE_BYTES, used, len(table) << SLOT_BITS)
    while at < end:
        cell = np.int64(load_u16(values, at))
        if _lives(cell, newest, gone, table[cell >> SLOT_BITS, 0]):
            store_u16(values, kept, np.uint16(cell))
            store_f64(values, kept + 2, load_f64(values, at + 2))
            kept += _VALUE_BYTES
        at += _VALUE_BYTES
    if kept < end:
        move(values, kept, values, end, used - end)
    return used - end + kept


@njit(_nrt=False)
def _expire_registers(registers: Any, used: int, newest: Any, gone: Any, table: Any) -> int:
    at, kept = 0, 0
    while at < used:
        word = load_u32(registers, at)
        cell = np.int64(word) >> 16
        if _lives(cell, newest, gone, table[cell >> SLOT_BITS, 0]):
            store_u32(registers, kept, word)
            kept += _REGISTER_BYTES
        at += _REGISTER_BYTES
    return kept
