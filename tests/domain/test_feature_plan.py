"""State follows from declarations alone."""

from __future__ import annotations

from domain.feature_plan import PLAN, Plan
from domain.features import FEATURES, Feature

HOUR_MS = 3_600_000


def test_order_of_declarations_does_not_matter() -> None:
    """The same features in another order need the same state at the same places."""
    other = Plan.of(FEATURES[::-1])
    assert other.fingerprint == PLAN.fingerprint
    assert other.amounts == PLAN.amounts


def test_a_count_costs_no_state_and_a_sum_does() -> None:
    """Counts and rates are read from what is kept anyway: only state that is new changes the fingerprint."""
    count = Feature("more", "count", ("like",), "x", "", HOUR_MS)
    total = Feature("total", "sum", ("like",), "x", "", HOUR_MS)
    assert Plan.of([*FEATURES, count]).fingerprint == PLAN.fingerprint
    assert Plan.of([*FEATURES, total]).fingerprint != PLAN.fingerprint


def test_features_share_state() -> None:
    """A mean beside a sum of the same needs one number more, and nothing twice."""
    total = Feature("total", "sum", ("like",), "x", "", HOUR_MS)
    mean = Feature("mean", "mean", ("like",), "x", "", HOUR_MS)
    assert len(Plan.of([total, mean]).amounts) == len(Plan.of([total]).amounts) + 1
    assert len(Plan.of([mean, mean]).amounts) == 2
