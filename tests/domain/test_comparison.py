"""One request's scores by two versions, compared, against a plain oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.comparison import MOST_TOP_K, Scored, average_ranks, compared, spearman

#: Few values, so that ties are common.
SCORES = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


def ranking(scores: list[float], known: list[bool]) -> list[int]:
    """Candidates as serving ranks them: known ones first, best first, then by number."""
    return sorted(range(len(scores)), key=lambda each: (not known[each], -scores[each] if known[each] else 0.0, each))


def scored(scores: list[float], known: list[bool] | None = None) -> Scored:
    """What a version makes of candidates."""
    knows = [True] * len(scores) if known is None else known
    return Scored(np.array(scores, dtype=np.float32), np.array(knows), np.array(ranking(scores, knows)))


def plain_ranks(values: list[float]) -> list[float]:
    """Average ranks by counting: those below, and half of the other equal ones."""
    return [sum(each < value for each in values) + (values.count(value) - 1) / 2 for value in values]


def plain_spearman(one: list[float], two: list[float]) -> float:
    """Pearson's correlation of average ranks, in exact order of its definition."""
    first, second = plain_ranks(one), plain_ranks(two)
    mean = sum(first) / len(first)
    covariance = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    spread = [math.sqrt(sum((each - mean) ** 2 for each in ranks)) for ranks in (first, second)]
    if not all(spread):
        return float(not any(spread))
    return covariance / (spread[0] * spread[1])


@st.composite
def two_versions(draw):
    """Scores and known rows of two versions over the same candidates."""
    rows = draw(st.lists(st.tuples(SCORES, st.booleans(), SCORES, st.booleans()), min_size=1, max_size=12))
    one, known_one, two, known_two = (list(column) for column in zip(*rows, strict=True))
    return one, known_one, two, known_two


@given(two_versions(), st.integers(1, 15))
def test_a_comparison_equals_the_plain_one(versions, top_k) -> None:
    """Correlation, drift and shift over common candidates, overlap of the rankings: all as counted by hand."""
    one, known_one, two, known_two = versions
    found = compared(scored(one, known_one), scored(two, known_two), top_k)
    both = [place for place in range(len(one)) if known_one[place] and known_two[place]]
    if len(both) < 2:
        assert found is None
        return
    assert found is not None
    k = min(top_k, math.ceil(len(both) / 2))
    shared = set(ranking(one, known_one)[:k]) & set(ranking(two, known_two)[:k])
    moved = [two[place] - one[place] for place in both]
    assert found.overlap == pytest.approx(len(shared) / k)
    assert found.correlation == pytest.approx(plain_spearman([one[p] for p in both], [two[p] for p in both]))
    assert found.shift == pytest.approx(sum(moved) / len(moved))
    assert found.drift == pytest.approx(sum(map(abs, moved)) / len(moved))


@given(st.lists(SCORES, min_size=1, max_size=20))
def test_equal_values_share_the_mean_of_their_ranks(values) -> None:
    """Average ranks are those of counting who is below."""
    assert average_ranks(np.array(values)).tolist() == plain_ranks(values)


@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=2, max_size=20))
def test_the_order_of_scores_is_all_that_correlation_sees(values) -> None:
    """A list correlates with itself at 1, with its reverse at -1 unless it is constant, which orders nothing."""
    scores = np.array(values)
    assert spearman(scores, scores) == pytest.approx(1.0)
    assert spearman(scores, -scores) == pytest.approx(1.0 if len(set(values)) == 1 else -1.0)
    if len(set(values)) > 1:
        assert spearman(scores, np.zeros(len(scores))) == 0.0


def test_a_request_for_all_of_its_candidates_is_compared_by_half_of_them() -> None:
    """Reversed scores have no overlap though every candidate was asked for; a hundred is the most that is compared."""
    scores = np.linspace(0, 1, 10).tolist()
    found = compared(scored(scores), scored(scores[::-1]), top_k=10)
    assert found is not None and found.overlap == 0.0
    many = np.linspace(0, 1, 4 * MOST_TOP_K).tolist()
    moved = [*many[:-MOST_TOP_K], *many[: -MOST_TOP_K - 1 : -1]]  # the best hundred in another order
    found = compared(scored(many), scored(moved), top_k=4 * MOST_TOP_K)
    assert found is not None and found.overlap == 1.0


def test_a_candidate_that_one_version_lacks_counts_in_the_overlap_alone() -> None:
    """The best candidate without a row in the other version costs overlap, and no correlation."""
    one = [0.9, 0.8, 0.7, 0.6, 0.5]
    found = compared(scored(one), scored([0.0, 0.8, 0.7, 0.6, 0.5], [False, True, True, True, True]), top_k=1)
    assert found is not None
    assert (found.overlap, found.correlation, found.drift) == (0.0, pytest.approx(1.0), 0.0)
