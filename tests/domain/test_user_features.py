"""What the user phase reads of a row, against the events themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.artifact import Dimensions
from domain.user_features import log_hours, user_inputs
from domain.user_state import BEHAVIOURS, EventBatch, fold, window_counts
from schemas.records import ACTIONS, UserEvent, UserHead

T0 = 1_500_000_000_000
HOUR_MS = 3_600_000
DIMS = Dimensions(
    embedding_dim=64, signature_bits=64, category_buckets=128, item_numeric=4, vector_dim=64, bridges=16, tiers=8,
    behaviours=32, user_features=56, hidden=(128, 64),
)  # fmt: skip


def head_of(times: list[int]) -> UserHead:
    """The row of a user with events at these times, items numbered from 100."""
    log: list[UserEvent] = [
        {
            "event_id": place, "user_id": 1, "item_id": 100 + place, "event_time_ms": time,
            "action": ACTIONS[place % len(ACTIONS)], "category_id": None, "value": None,
            "original_user_id": None, "original_item_id": None,
        }
        for place, time in enumerate(times)
    ]  # fmt: skip
    return fold({}, EventBatch.of(range(len(log)), log), 1).heads[1]


@given(
    st.lists(st.integers(0, 100 * HOUR_MS), min_size=1, max_size=50), st.integers(0, 120 * HOUR_MS), st.integers(1, 40)
)
def test_newest_behaviours_first_none_from_the_future(offsets, at, most) -> None:
    """The newest behaviours not after the user's time, in reverse log order, then absent places."""
    moment = T0 + at
    kept = list(enumerate(T0 + offset for offset in offsets))[-BEHAVIOURS:]
    expected = [(place, time) for place, time in reversed(kept) if time <= moment][:most]
    inputs = user_inputs([head_of([T0 + each for each in offsets])], np.array([moment]), replace(DIMS, behaviours=most))
    count = len(expected)
    assert inputs.item_ids[0].tolist() == [100 + place for place, _ in expected] + [0] * (most - count)
    assert inputs.actions[0, :count].tolist() == [place % len(ACTIONS) for place, _ in expected]
    assert inputs.present[0].tolist() == [True] * count + [False] * (most - count)
    np.testing.assert_allclose(
        inputs.ages[0],
        [np.log1p((moment - time) / HOUR_MS) for _, time in expected] + [0.0] * (most - count),
        rtol=1e-6,
    )


def test_windows_are_logs_of_counts() -> None:
    """Window features are log1p of the counts at the same time, flattened window by window."""
    heads, at = [head_of([T0, T0, T0 + 5]), None], np.array([T0 + HOUR_MS, T0])
    inputs = user_inputs(heads, at, DIMS)
    assert inputs.windows.shape == (2, DIMS.user_features)
    np.testing.assert_allclose(np.expm1(inputs.windows), window_counts(heads, at).reshape(2, -1), atol=1e-6)


def test_a_user_without_a_row() -> None:
    """Zeros everywhere, of the right shapes and types."""
    inputs = user_inputs([None], np.array([T0]), DIMS)
    assert len(inputs) == 1
    for name, kind in (("windows", "f4"), ("item_ids", "i8"), ("actions", "i8"), ("ages", "f4"), ("present", "?")):
        column = getattr(inputs, name)
        assert column.dtype == kind
        assert not column.any()


@pytest.mark.parametrize(("elapsed_ms", "expected"), [(0, 0.0), (HOUR_MS, np.log(2)), (23 * HOUR_MS, np.log(24))])
def test_ages_are_logs_of_hours(elapsed_ms, expected) -> None:
    """Known ages."""
    assert log_hours(np.array([elapsed_ms]))[0] == pytest.approx(expected)


def test_a_batch_equals_its_users() -> None:
    """A user's inputs do not depend on whom they were computed with."""
    heads, at = [head_of([T0]), None, head_of([T0 + 9, T0 + 3])], np.array([T0 + 10, T0, T0 + 20])
    together = user_inputs(heads, at, DIMS)
    for place, head in enumerate(heads):
        alone = user_inputs([head], at[place : place + 1], DIMS)
        for name, column in vars(alone).items():
            np.testing.assert_array_equal(getattr(together, name)[place], column[0])
