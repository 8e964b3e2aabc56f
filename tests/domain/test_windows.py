"""Windows are counts of events by whole tiles: checked against a list of events and the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.user_row import tiles_of
from domain.user_state import EventBatch, fold
from domain.windows import LONGEST_MS, TILE_DTYPE, WINDOWS, count_windows, oldest_starts
from schemas.codec import codec
from schemas.records import ACTIONS

DAY_MS = 86_400_000
#: Around one moment, at tile edges of every level, and years away, before 1970 too.
times = st.one_of(
    st.integers(-300_000, 300_000),
    st.builds(lambda tiles, edge: tiles * 600_000 + edge, st.integers(-200, 200), st.sampled_from([-1, 0, 1])),
    st.builds(lambda tiles, edge: tiles * 4 * 3_600_000 + edge, st.integers(-50, 50), st.sampled_from([-1, 0, 1])),
    st.builds(lambda days, edge: days * DAY_MS + edge, st.integers(-9, 9), st.sampled_from([-1, 0, 1])),
    st.integers(-(10**12), 10**12),
).map(lambda offset: 1_500_000_000_000 + offset)
events = st.lists(st.tuples(times, st.integers(0, len(ACTIONS) - 1)), min_size=1, max_size=25)
NOBODY = -(2**61)


def int64(values: object) -> np.ndarray:
    """Values as int64."""
    return np.array(values, dtype=np.int64)


def by_definition(row: list[tuple[int, int]], at: int) -> np.ndarray:
    """Window counts from the list of (time, action) alone; what came too late is left out."""
    counts = np.zeros((len(WINDOWS), len(ACTIONS)), dtype=np.float32)
    for time, action in counted(row):
        for index, (_, length, tile) in enumerate(WINDOWS):
            start = time // tile * tile
            counts[index, action] += (at - length) // tile * tile <= start <= at
    return counts


def counted(row: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The events that were not older than the newest before them by more than the longest window."""
    return [
        (time, action)
        for place, (time, action) in enumerate(row)
        if time >= max((before for before, _ in row[:place]), default=time) - LONGEST_MS
    ]


def merged(rows: list[list[tuple[int, int]]], steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles, owners and newest times after folding rows in so many steps."""
    heads, offset = {}, 0
    for step in range(steps):
        part = [
            (index, *event)
            for index, row in enumerate(rows)
            for event in row[step * len(row) // steps : (step + 1) * len(row) // steps]
        ]
        if part:
            owner, time, action = int64(part).T
            place = offset + np.arange(len(part))
            offset += len(part)
            batch = EventBatch(
                place, place, owner, place, time, action.astype(np.uint8), 0 * place, place < 0, place * np.nan
            )
            heads |= fold(heads, batch, 1, idle_ms=2**60).heads
    return tiles_of([codec("user_head").decode(heads[index]) for index in range(len(rows))])


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_declarations_are_whole_and_fine(window) -> None:
    """A window is whole tiles, and its tile is at most a fifth of it."""
    assert window.length_ms % window.tile_ms == 0
    assert window.tile_ms * 5 <= window.length_ms
    assert window.length_ms <= LONGEST_MS


def test_oldest_start_floors_towards_the_past() -> None:
    """The oldest tile of a window contains t - W, also on an edge and before 1970."""
    at = int64([0, -1, 1, 1_500_000_000_123])
    for column, (_, length, tile) in enumerate(WINDOWS):
        assert oldest_starts(at)[:, column].tolist() == [(each - length) // tile * tile for each in at.tolist()]


@given(st.lists(events, min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 9 * DAY_MS))
def test_counts_equal_the_definition_from_newest_on(rows, steps, later) -> None:
    """However a row's events are split, its windows at any time from its newest on are those of the event list."""
    tiles, owner, newest = merged(rows, steps)
    at = newest + later
    expected = [by_definition(row, int(moment)) for row, moment in zip(rows, at, strict=True)]
    np.testing.assert_array_equal(count_windows(tiles, owner, newest, at), expected)


@given(events, st.integers(1, 10 * DAY_MS))
def test_counts_before_newest_are_of_the_kept_tiles(row, earlier) -> None:
    """At a time before the newest event, later tiles do not count and expired ones are gone."""
    tiles, owner, newest = merged([row], 1)
    at = newest - earlier
    row = counted(row)
    kept = np.zeros((len(WINDOWS), len(ACTIONS)), dtype=np.float32)
    for index, (_, length, tile) in enumerate(WINDOWS):
        oldest = (int(newest[0]) - length) // tile * tile
        inside = [(time, action) for time, action in row if time // tile * tile >= oldest]
        kept[index] = by_definition(inside, int(at[0]))[index]
    np.testing.assert_array_equal(count_windows(tiles, owner, newest, at)[0], kept)


def test_idle_rows_empty_without_a_write() -> None:
    """The same tiles read later and later fall to zero window by window, the longest after its tile has passed too."""
    tiles, owner, newest = merged([[(1_500_000_000_000, 2)]], 1)
    totals = [
        count_windows(tiles, owner, newest, newest + after)[0].sum(axis=1).tolist()
        for after in (0, 6 * 60_000, 2 * 3_600_000, 2 * DAY_MS, 8 * DAY_MS)
    ]
    assert totals == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_no_rows_and_no_tiles() -> None:
    """No rows give no counts, and a row without tiles gives zeros."""
    none = int64([])
    assert count_windows(np.zeros(0, TILE_DTYPE), none, none, none).shape == (0, len(WINDOWS), len(ACTIONS))
    assert not count_windows(np.zeros(0, TILE_DTYPE), none, int64([NOBODY]), int64([5])).any()
