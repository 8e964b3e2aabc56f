"""Decayed weights equal sums of powers; the fold as a whole is tested in test_user_state.py."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.decay_kernel import RANKED_BYTES, add_ranked, add_scalars
from domain.features import RANKED
from domain.user_row import RANKED_DTYPE, VALUE_DTYPE

SCALARS = np.array([[0, 1], [1_000, 3]], dtype=np.int64)
RANKINGS = np.array([[1_000, 1], [5_000, 3]], dtype=np.int64)
events = st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 2), st.integers(0, 25)), min_size=1, max_size=60)


@given(events)
def test_scalars_are_last_times_and_decayed_counts(drawn) -> None:
    """Of the actions of its mask, a scalar is the newest time, or log2 of the sum of 2 ** (time / half life)."""
    values, used = np.zeros(100, dtype=np.uint8), 0
    for time, action, _ in drawn:
        used = add_scalars(values, used, 2, time, action, SCALARS)
    found = dict(values[:used].view(VALUE_DTYPE).tolist())
    times = {mask: [time for time, action, _ in drawn if mask >> action & 1] for mask in (1, 3)}
    expected = {2 << 3: float(max(times[1]))} if times[1] else {}
    if times[3]:
        expected[3 << 3] = math.log2(math.fsum(2.0 ** (time / 1_000) for time in times[3]))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[cell] for cell in expected], list(expected.values()), rtol=1e-12, atol=1e-9)


@given(events)
def test_rankings_keep_the_heaviest_and_lose_no_weight(drawn) -> None:
    """A ranking has at most sixteen categories, all the weight that came, and exact weights until a seventeenth."""
    ranked, used = np.zeros(RANKED_BYTES * (2 * RANKED + 1), dtype=np.uint8), 0
    for time, action, category in drawn:
        used = add_ranked(ranked, used, time, action, category, RANKINGS)
    rows = ranked[:used].view(RANKED_DTYPE)
    assert (np.diff(rows["ranking"].astype(int)) >= 0).all()
    for ranking, (half_life, mask) in enumerate(RANKINGS.tolist()):
        weights: dict[int, float] = {}
        for time, action, category in drawn:
            if mask >> action & 1:
                weights[category] = weights.get(category, 0.0) + 2.0 ** (time / half_life)
        held = rows[rows["ranking"] == ranking]
        assert len(held) == min(len(weights), RANKED) == len(set(held["category_id"].tolist()))
        np.testing.assert_allclose(np.exp2(held["weight"]).sum(), math.fsum(weights.values()), rtol=1e-9)
        if len(weights) <= RANKED:
            exact = [weights[category] for category in held["category_id"].tolist()]
            np.testing.assert_allclose(np.exp2(held["weight"]), exact, rtol=1e-9)
        heavy = {category for category, weight in weights.items() if weight > sum(weights.values()) / RANKED * 1.0001}
        assert heavy <= set(held["category_id"].tolist())
