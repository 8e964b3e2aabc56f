from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import auc, gauc, group_auc, hit_rate, logloss

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


@given(_rows, st.integers(1, 6))
def test_hit_rate_equals_counting(rows: list[tuple[int, bool, int]], count: int) -> None:
    """The share of wanted ones among the best by score, first come first where equal, of at most `count`."""
    wanted = np.array([row[1] for row in rows], dtype=np.bool_)
    score = np.array([row[2] for row in rows], dtype=np.float32)
    best = sorted(range(len(rows)), key=lambda place: (-score[place], place))[:count]
    total = min(int(wanted.sum()), count)
    expected = sum(bool(wanted[place]) for place in best) / total if total else math.nan
    np.testing.assert_allclose(hit_rate(wanted, score, count), expected)


def test_groups_with_one_kind_of_label_have_no_auc() -> None:
    """Only groups with both labels are listed, ascending, with their AUC and size."""
    ids, each, counts = group_auc(
        np.array([9, 9, 4, 4, 7, 9]), np.array([1, 0, 1, 1, 0, 0], "f4"), np.array([2, 1, 0, 0, 0, 3], "f4")
    )
    assert (ids.tolist(), each.tolist(), counts.tolist()) == ([9], [0.5], [3.0])
