"""Sliding windows over event time, kept as sparse tiles.

A window of length W at time t is [floor(t - W, tile), t]: whole tiles, so its true length is between W and W + tile,
and tile <= W / 5 bounds the excess to a fifth. The tile that contains t counts whole, also the part of it after t.

A row keeps, for every window, the non-empty tiles that start at or after floor(newest - W, tile), where newest is the
row's newest event time. Reading at any t >= newest is therefore exact, and an idle row empties with t without a write.
Reading at t < newest sees only what the row still keeps.

Every tile that a row can keep has a *cell*: its window, its slot (the tile's number among all tiles of that length,
modulo eight) and an action. A cell means a time only together with its row's newest event time, which keeps a packed
tile at 6 bytes: no window covers more than eight tiles, so of the times that a slot can mean one alone is kept, and
when newest moves on nothing shifts. The fold is tile_kernel.py; here is what a tile is, and reading.

Everything here is arithmetic on arrays of many rows at once; `owner` is the row that a tile or event belongs to.
Times must lie within +-2**60 ms.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.records import ACTIONS

__all__ = [
    "ACTION_BITS", "LONGEST_MS", "SLOTS", "SLOT_BITS", "TILE_DTYPE", "WINDOWS", "Window", "count_windows",
    "oldest_starts", "split_cells", "tile_starts",
]  # fmt: skip

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS


class Window(NamedTuple):
    """A window's name, its length, and the length of the tiles it is made of."""

    name: str
    length_ms: int
    tile_ms: int

    @property
    def tiles(self) -> int:
        """Tiles that the window covers at any time: whole ones of its length and the one it ends in."""
        return self.length_ms // self.tile_ms + 1


WINDOWS: Final = (
    Window("5m", 5 * _MINUTE_MS, _MINUTE_MS),
    Window("1h", _HOUR_MS, 10 * _MINUTE_MS),
    Window("24h", _DAY_MS, 4 * _HOUR_MS),
    Window("7d", 7 * _DAY_MS, _DAY_MS),
)

#: Events older than this, relative to their row's newest, are too late to count.
LONGEST_MS: Final = max(window.length_ms for window in WINDOWS)

#: A packed tile. Those of a row are sorted by cell and never empty, so that equal contents are equal bytes.
TILE_DTYPE: Final = np.dtype([("cell", "<u2"), ("count", "<u4")])

#: A cell is window << (SLOT_BITS + ACTION_BITS) | slot << ACTION_BITS | action code.
SLOT_BITS: Final = 3
SLOTS: Final = 1 << SLOT_BITS
ACTION_BITS: Final = 4
assert max(window.tiles for window in WINDOWS) <= SLOTS
assert len(ACTIONS) <= 1 << ACTION_BITS

_LENGTH_MS: Final = np.array([window.length_ms for window in WINDOWS], dtype=np.int64)
_TILE_MS: Final = np.array([window.tile_ms for window in WINDOWS], dtype=np.int64)


def oldest_starts(at_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Start of the oldest tile of every window at each time ([n] int64 ms -> [n, windows] int64 ms)."""
    start = at_ms[:, None] - _LENGTH_MS
    return np.asarray(start - start % _TILE_MS, dtype=np.int64)


def tile_starts(
    window: npt.NDArray[np.int64] | int, slot: npt.NDArray[np.int64], newest_ms: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """When tiles of rows with these newest event times start ([n] int64 ms)."""
    tile_ms = _TILE_MS[window]
    oldest = (newest_ms - _LENGTH_MS[window]) // tile_ms
    return np.asarray((oldest + (slot - oldest) % SLOTS) * tile_ms, dtype=np.int64)


def count_windows(
    tiles: npt.NDArray[Any],
    tile_owner: npt.NDArray[np.int64],
    newest_ms: npt.NDArray[np.int64],
    at_ms: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Events of every window and action of each row at its own time ([rows, windows, actions] float32).

    `newest_ms` and `at_ms` are [rows] int64. Tiles that start after the row's `at_ms` do not count.
    """
    shape = len(at_ms), len(WINDOWS), len(ACTIONS)
    window, slot, action = split_cells(tiles["cell"])
    start = tile_starts(window, slot, newest_ms[tile_owner])
    inside = (start >= oldest_starts(at_ms)[tile_owner, window]) & (start <= at_ms[tile_owner])
    counter = (tile_owner * len(WINDOWS) + window) * len(ACTIONS) + action
    counts = np.bincount(counter[inside], weights=tiles["count"][inside], minlength=int(np.prod(shape)))
    return counts.astype(np.float32).reshape(shape)


def split_cells(
    cells: npt.NDArray[np.uint16],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Window, slot and action code of each cell."""
    cell = cells.astype(np.int64)
    return cell >> SLOT_BITS + ACTION_BITS, cell >> ACTION_BITS & SLOTS - 1, cell & (1 << ACTION_BITS) - 1
