from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import auc, gauc, logloss

_rows = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-3, 3)), max_size=40)


def _slow_auc(rows: list[tuple[int, bool, int]]) -> float:
    wins = [(p > n) + (p == n) / 2 for _, a, p in rows if a for _, b, n in rows if not b]
    return sum(wins) / len(wins) if wins else math.nan


@given(_rows)
def test_gauc_equals_pairwise_counting(rows: list[tuple[int, bool, int]]) -> None:
    """AUC by ranks equals counting pairs with ties half; GAUC is its mean over groups, by their size."""
    group = np.array([row[0] for row in rows], dtype=np.int64)
    label = np.array([row[1] for row in rows], dtype=np.float32)
    score = np.array([row[2] for row in rows], dtype=np.float32)
    np.testing.assert_allclose(auc(label, score), _slow_auc(rows))
    parts = [[row for row in rows if row[0] == each] for each in range(4)]
    valid = [(len(part), value) for part in parts if not math.isnan(value := _slow_auc(part))]
    expected = sum(n * value for n, value in valid) / sum(n for n, _ in valid) if valid else math.nan
    np.testing.assert_allclose(gauc(group, label, score), expected)


def test_logloss_of_certain_and_extreme_scores() -> None:
    """The loss is log 2 for undecided scores and finite for extreme ones."""
    assert logloss(np.array([1, 0], "f4"), np.zeros(2, "f4")) == np.float64(math.log(2))
    assert logloss(np.array([0], "f4"), np.array([1000], "f4")) == 1000
