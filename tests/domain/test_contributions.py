from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.artifact import Dimensions
from domain.contributions import leave_one_out, logits, term_names


def weights(seed: int) -> tuple[np.ndarray, ...]:
    """The two upper layers."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(5, 4)), rng.normal(size=4), rng.normal(size=4), np.float32(rng.normal())


def plain_logit(first: np.ndarray, w2, b2, w3, b3) -> float:
    """The oracle: one unit at a time."""
    hidden = [max(0.0, each) for each in first]
    second = [sum(hidden[i] * w2[i][j] for i in range(5)) + b2[j] for j in range(4)]
    return sum(max(0.0, second[j]) * w3[j] for j in range(4)) + float(b3)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 6))
def test_a_contribution_is_the_logit_less_the_one_without_the_term(seed, count, terms) -> None:
    """Equals the definition, computed one candidate, term and unit at a time."""
    head = weights(seed)
    drawn = np.random.default_rng(seed).normal(size=(count, terms, 5)).astype(np.float32)
    whole, parts = leave_one_out(drawn, *head)
    for candidate in range(count):
        exact = drawn[candidate].astype(np.float64)
        assert whole[candidate] == pytest.approx(plain_logit(exact.sum(axis=0), *head))
        for term in range(terms):
            rest = np.delete(exact, term, axis=0).sum(axis=0)
            expected = plain_logit(exact.sum(axis=0), *head) - plain_logit(rest, *head)
            assert parts[candidate, term] == pytest.approx(expected, abs=1e-9)


def test_a_term_of_zeros_contributes_nothing() -> None:
    """What the model did not see moved nothing."""
    head = weights(3)
    terms = np.stack([np.ones((2, 5)), np.zeros((2, 5))], axis=1)
    whole, parts = leave_one_out(terms, *head)
    assert parts[:, 1].tolist() == [0.0, 0.0]
    assert whole == pytest.approx(logits(np.ones((2, 5)), *head))


def test_terms_are_named_after_what_they_read() -> None:
    """One name for each bridge and group of actions; a group of many actions is named by its first."""
    dims = Dimensions(
        embedding_dim=64, signature_bits=64, category_buckets=8, item_numeric=3, vector_dim=4, bridges=2, tiers=8,
        tier_groups=(("click", "purchase"), ("impression",)), behaviours=6, attention=True, long_behaviours=20,
        cross_categories=2, user_features=56, hidden=(5, 4),
    )  # fmt: skip
    assert term_names(dims) == [
        "item_vector", "user", "bridge_0", "bridge_1", "linear_din", "tiers_click_and_1_more", "tiers_impression",
        "attention", "category",
    ]  # fmt: skip
