"""Cross features per category against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.cross_features import CROSS_FEATURES, cross_features
from schemas.records import ACTIONS

_behaviours = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, len(ACTIONS) - 1), st.sampled_from([0.0, 0.5, 3.0]), st.booleans()),
    min_size=7, max_size=7,
)  # fmt: skip


def _plain(behaviours: list[tuple[int, int, float, bool]], most: int) -> tuple[list[int], np.ndarray]:
    """One user's top categories and features."""
    counts: dict[int, int] = {}
    for category, _, _, present in behaviours:
        if present and category:
            counts[category] = counts.get(category, 0) + 1  # a dictionary keeps the order of first sight: newest first
    top = sorted(counts, key=lambda each: -counts[each])[:most]
    features = np.zeros((most, CROSS_FEATURES), dtype=np.float32)
    for row, wanted in enumerate(top):
        for code in range(len(ACTIONS)):
            ages = [
                age for category, action, age, present in behaviours if (category, action) == (wanted, code) and present
            ]
            features[row, code] = np.log1p(len(ages))
            features[row, len(ACTIONS) + code] = max((1 / (1 + age) for age in ages), default=0)
    return top + [0] * (most - len(top)), features


@settings(deadline=None)
@given(st.lists(_behaviours, min_size=1, max_size=3), st.integers(0, 5))
def test_cross_features_equal_plain_loops(drawn: list[Any], most: int) -> None:
    """Top categories by count, of equal ones the newer, with counts and recency by action, for any users and sizes."""
    categories, actions, ages, present = (
        np.array(column) for column in np.moveaxis(np.array(drawn, dtype=object), -1, 0)
    )
    top, features = cross_features(
        categories.astype(np.int64), actions.astype(np.int64), ages.astype(np.float32), present.astype(bool), most
    )
    for user, behaviours in enumerate(drawn):
        expected_top, expected = _plain(behaviours, most)
        assert top[user].tolist() == expected_top
        np.testing.assert_allclose(features[user], expected, rtol=1e-6)


def test_a_large_bucket_does_not_reach_another_user() -> None:
    """Users with the same category keep their own counts."""
    ones = np.ones((2, 3), dtype=np.int64)
    top, features = cross_features(ones * 4095, ones, ones.astype(np.float32), np.array([[1, 1, 1], [1, 0, 0]]) > 0, 2)
    assert top.tolist() == [[4095, 0], [4095, 0]]
    np.testing.assert_allclose(features[:, 0, 1], np.log1p([3, 1]), rtol=1e-6)
