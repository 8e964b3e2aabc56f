"""The inner loop of item_activity.py, compiled: every event of a batch, one at a time, into its item's row.

It does what item_activity.py says, in the order of the log. A row's tiles are spread over dense arrays while its events
are applied: a tile lies in its slot (windows.py), and `number` says which tile that is. The machine code is cached
beside this file; importing a new build compiles for some seconds.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from domain.compiled import njit
from domain.windows import ACTION_BITS, LONGEST_MS, SLOT_BITS, SLOTS, WINDOWS
from schemas.records import ACTIONS

__all__ = ["NEVER", "fold_activity"]

#: Newest event time of no row, and time of no snapshot as the kernel has it: older than any event.
NEVER: Final = -(2**61)

_LEVELS: Final = len(WINDOWS)
_COUNTED_FROM: Final = 1  # the shortest window is not an item's
_ACTIONS: Final = len(ACTIONS)
_TILE_MS: Final = tuple(window.tile_ms for window in WINDOWS)
_LENGTH_MS: Final = tuple(window.length_ms for window in WINDOWS)


@njit()
def _oldest(level: int, newest: int) -> int:
    """Number of the oldest tile of a level that reaches into its window."""
    return (newest - _LENGTH_MS[level]) // _TILE_MS[level]


@njit()
def _spread(cells: Any, amounts: Any, start: int, end: int, newest: int, number: Any, counts: Any) -> None:
    """A row's packed tiles into slots."""
    for place in range(start, end):
        cell = np.int64(cells[place])
        level, slot = cell >> (SLOT_BITS + ACTION_BITS), (cell >> ACTION_BITS) & (SLOTS - 1)
        oldest = _oldest(level, newest)
        number[level, slot] = oldest + ((slot - oldest) & (SLOTS - 1))
        counts[level, slot, cell & ((1 << ACTION_BITS) - 1)] = amounts[place]


@njit()
def _count(time: int, action: int, newest: int, number: Any, counts: Any) -> None:
    """Add an event to its tile of every level that still reaches back to it."""
    for level in range(_COUNTED_FROM, _LEVELS):
        tile = time // _TILE_MS[level]
        if tile < _oldest(level, newest):
            continue
        slot = tile & (SLOTS - 1)
        if number[level, slot] != tile:
            number[level, slot] = tile
            for each in range(_ACTIONS):
                counts[level, slot, each] = 0
        counts[level, slot, action] += np.uint32(1)


@njit()
def _snapshot(newest: int, number: Any, counts: Any, out: Any) -> None:
    """Counts by window and action at the row's newest event."""
    for level in range(_COUNTED_FROM, _LEVELS):
        oldest, first = _oldest(level, newest), (level - _COUNTED_FROM) * _ACTIONS
        for action in range(_ACTIONS):
            out[first + action] = 0
        for slot in range(SLOTS):
            if number[level, slot] >= oldest:
                for action in range(_ACTIONS):
                    out[first + action] += counts[level, slot, action]


@njit()
def _packed(newest: int, number: Any, counts: Any, cells: Any, amounts: Any, end: int) -> int:
    """Append the row's non-empty tiles in the order of their cells; the new end."""
    for level in range(_COUNTED_FROM, _LEVELS):
        oldest = _oldest(level, newest)
        for slot in range(SLOTS):
            if number[level, slot] < oldest:
                continue
            for action in range(_ACTIONS):
                if counts[level, slot, action]:
                    cells[end] = (level << SLOT_BITS | slot) << ACTION_BITS | action
                    amounts[end] = counts[level, slot, action]
                    end += 1
    return end


_I8: Final = types.int64[::1]
_U2, _U4 = types.uint16, types.uint32


# With the types given it compiles on import: no worker's first batch waits for it.
@njit(
    types.int64(
        _I8, _I8, types.uint8[::1], types.int64, _I8, _I8,
        types.Tuple((types.Array(_U2, 1, "C", readonly=True), types.Array(_U4, 1, "C", readonly=True))), _I8,
        _I8, _I8, _I8, types.int64[:, ::1], types.Tuple((_U2[::1], _U4[::1])), _I8,
    ),
)  # fmt: skip
def fold_activity(
    first: Any, times: Any, actions: Any, interval_ms: int, newest: Any, snapshot_ms: Any, tiles: Any, tiles_first: Any,
    counted: Any, made_by: Any, made_ms: Any, made_counts: Any, out: Any, ends: Any,
) -> int:  # fmt: skip
    """Fold the events of each row, `first[row]` to `first[row + 1]`, and return how many snapshots were made.

    `newest` and `snapshot_ms` [rows] are read and written, `tiles` (cells, counts) of row i start at `tiles_first[i]`.
    Written: `counted` [rows] events that were not late; `made_by`, `made_ms` and `made_counts`, of every snapshot the
    event that it was taken at, its time and its counts; `out` (cells, counts) and `ends` [rows], the new tiles.
    """
    number = np.empty((_LEVELS, SLOTS), dtype=np.int64)
    counts = np.zeros((_LEVELS, SLOTS, _ACTIONS), dtype=np.uint32)
    end, made = 0, 0
    for row in range(len(newest)):
        number[:] = NEVER
        counts[:] = 0
        _spread(tiles[0], tiles[1], tiles_first[row], tiles_first[row + 1], newest[row], number, counts)
        counted[row] = 0
        for event in range(first[row], first[row + 1]):
            time = times[event]
            if time < newest[row] - LONGEST_MS:
                continue
            newest[row] = max(newest[row], time)
            counted[row] += 1
            _count(time, actions[event], newest[row], number, counts)
            if newest[row] - snapshot_ms[row] >= interval_ms:
                snapshot_ms[row] = newest[row]
                _snapshot(newest[row], number, counts, made_counts[made])
                made_by[made], made_ms[made] = event, newest[row]
                made += 1
        end = _packed(newest[row], number, counts, out[0], out[1], end)
        ends[row] = end
    return made
