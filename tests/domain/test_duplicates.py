"""Verdicts on a batch equal those of one event at a time."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.duplicates import EVENT_IDS, find_duplicates


def one_at_a_time(remembered: list[list[int]], ids: list[int], owner: list[int]) -> list[bool]:
    """The rule, literally."""
    rings = [deque(row, maxlen=EVENT_IDS) for row in remembered]
    verdicts = []
    for event, row in zip(ids, owner, strict=True):
        verdicts.append(event in rings[row])
        if not verdicts[-1]:
            rings[row].append(event)
    return verdicts


def verdicts(remembered: list[list[int]], ids: list[int], owner: list[int]) -> list[bool]:
    """The verdicts of the code under test."""
    packed = [np.array(row, dtype="<i8").tobytes() for row in remembered]
    found = find_duplicates(packed, np.array(ids, dtype=np.int64), np.array(owner, dtype=np.int64))
    return found.tolist()


@given(
    st.lists(st.lists(st.integers(-3, 60), unique=True, max_size=EVENT_IDS), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 60)), max_size=80),
)
def test_equals_one_event_at_a_time(remembered, events) -> None:
    """For any remembered ids and any batch, zero and negative ids included."""
    events = sorted(((row % len(remembered), event) for row, event in events), key=lambda pair: pair[0])
    owner, ids = [row for row, _ in events], [event for _, event in events]
    assert verdicts(remembered, ids, owner) == one_at_a_time(remembered, ids, owner)


@pytest.mark.parametrize("kinds", [30, 32, 33, 34, 40, 70])
def test_long_logs_around_the_bound(kinds) -> None:
    """Ids that keep returning just inside and just outside the bound, where a verdict depends on many before it."""
    random = np.random.default_rng(kinds)
    remembered = [random.permutation(kinds)[:EVENT_IDS].tolist(), []]
    for _ in range(10):
        shuffled = random.integers(0, kinds, 500)
        cyclic = np.arange(500) % kinds
        ids = np.concatenate([shuffled, cyclic]).tolist()
        owner = [0] * 500 + [1] * 500
        assert verdicts(remembered, ids, owner) == one_at_a_time(remembered, ids, owner)


def test_the_bound_is_exact() -> None:
    """An id is known after 31 others and new after 32."""
    assert verdicts([[]], [7, *range(100, 131), 7], [0] * 33)[-1] is True
    assert verdicts([[]], [7, *range(100, 132), 7], [0] * 34)[-1] is False


def test_rows_do_not_share_ids() -> None:
    """The same id under two users is two events."""
    assert verdicts([[5], []], [5, 5], [0, 1]) == [True, False]


def test_an_unused_place_is_not_the_id_zero() -> None:
    """A row that remembers nothing does not know id 0."""
    assert verdicts([[]], [0, 0], [0, 0]) == [False, True]
