"""Tiles in place equal a dictionary of them; the fold as a whole is tested in test_user_state.py."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.tile_kernel import add_amounts, add_counts, add_registers, expire_tiles, tile_numbers
from domain.user_row import REGISTER_DTYPE, VALUE_DTYPE
from domain.windows import TILE_DTYPE, WINDOWS

T0 = 1_700_000_000_000
#: A sum in hours and the smallest value of a week, of every action; different items of an hour.
AMOUNTS = np.array([[1, 1, -1], [3, 2, -1]], dtype=np.int64)
SKETCHES = np.array([[1, 0, -1]], dtype=np.int64)
gaps = st.lists(
    st.tuples(st.sampled_from([0, 59_999, 600_000, 3_600_000, 86_400_000, 8 * 86_400_000]), st.integers(0, 300_000)),
    min_size=1, max_size=40,
)  # fmt: skip


@given(gaps)
def test_tiles_equal_a_dictionary(drawn) -> None:
    """Counts, sums, minima and registers of every tile that the windows at the newest event reach, no other, sorted."""
    tiles, values, registers = (np.zeros(9_000, dtype=np.uint8) for _ in range(3))
    used, number, newest, gone = (np.zeros(size, dtype=np.int64) for size in (3, 4, 4, 4))
    newest_ms, now = -(2**61), T0
    tile_numbers(newest_ms, newest)
    counts: dict[tuple[int, int], int] = {}
    sums: dict[int, float] = {}
    least: dict[int, float] = {}
    for place, (gap, late) in enumerate(drawn):
        now += gap
        time = now - late
        tile_numbers(time, number)
        if time > newest_ms:
            newest_ms = time
            expire_tiles(newest, number, gone, tiles, values, registers, used, AMOUNTS, SKETCHES)
            newest[:] = number
        used[0] = add_counts(tiles, used[0], number, newest, place % 3)
        used[1] = add_amounts(values, used[1], number, newest, place % 3, place / 4, AMOUNTS)
        used[2] = add_registers(registers, used[2], number, newest, 0, place, 0, False, SKETCHES)
        for level, window in enumerate(WINDOWS):
            key = level << 7 | (time // window.tile_ms % 8) << 4 | place % 3
            counts[key, time // window.tile_ms] = counts.get((key, time // window.tile_ms), 0) + 1
        sums[time // 600_000] = sums.get(time // 600_000, 0.0) + place / 4
        least.setdefault(time // 86_400_000, place / 4)

    def kept(level: int, tile: int) -> bool:
        return tile >= (newest_ms - WINDOWS[level].length_ms) // WINDOWS[level].tile_ms

    expected = sorted((key, count) for (key, tile), count in counts.items() if kept(key >> 7, tile))
    assert tiles[: used[0]].view(TILE_DTYPE).tolist() == expected
    amounts = [(tile % 8, value) for tile, value in sums.items() if kept(1, tile)]
    amounts += [(8 | tile % 8, value) for tile, value in least.items() if kept(3, tile)]
    assert values[: used[1]].view(VALUE_DTYPE).tolist() == sorted(amounts)
    words = registers[: used[2]].view(REGISTER_DTYPE).astype(np.int64)
    assert (np.diff(words >> 8) > 0).all()
    assert {int(word) >> 16 for word in words} == {tile % 8 for tile in sums if kept(1, tile)}
