from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.lsh import hyperplanes, signatures, similarity
from experiments import neighbours
from experiments.neighbours import precision
from experiments.record import page

_scored = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=4, max_size=6)


@given(_scored, st.integers(1, 3))
def test_precision_is_the_mean_over_all_orders_of_equal_scores(scored: list[tuple[int, bool]], count: int) -> None:
    """The expected share of right ones among the best equals a count over every order that ties allow."""
    shares = []
    for order in permutations(range(len(scored))):
        ranked = sorted(order, key=lambda place: -scored[place][0])  # stable: `order` decides between equal scores
        shares.append(sum(scored[place][1] for place in ranked[:count]) / count)
    scores = np.array([[score for score, _ in scored]], dtype=np.float32)
    right = np.array([[each for _, each in scored]])
    assert precision(scores, right, count)[0] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("bits", [32, 64, None])
def test_precision_of_embeddings_is_that_of_a_plain_search(bits: int | None) -> None:
    """Packed comparison gives what comparing all pairs one by one gives, the query itself left out."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((60, 16)).astype(np.float32)
    kinds = random.integers(3, size=60)
    if bits is None:
        scores = vectors @ vectors.T
    else:
        packed = signatures(vectors, hyperplanes(neighbours.ModelConfig.signature_seed, bits, 16))
        scores = similarity(packed, packed)
    queries = np.arange(0, 60, 7)
    expected = []
    for query in queries:
        others = np.flatnonzero(np.arange(60) != query)
        expected.append(precision(scores[query, others][None], (kinds[others] == kinds[query])[None], 10)[0])
    found = neighbours._precisions(vectors, bits, queries, {"kind": kinds})["kind"]
    np.testing.assert_allclose(found, expected)


def test_the_page_shows_every_number_that_was_found() -> None:
    """Each embedding, number of bits and truth has its interval in the tables and its line in the figure."""
    rows = [
        {"embedding": name, "bits": bits} | {truth: {"value": 0.5, "low": 0.25, "high": 0.75} for truth in _TRUTHS}
        for name in ("title", "picture") for bits in (32, None)
    ]  # fmt: skip
    found = {
        "command": "aif experiment neighbours", "minutes": 0.1, "machine": "any", "items": 60, "queries": 9, "dim": 16,
        "chance": dict.fromkeys(_TRUTHS, 0.125), "rows": rows,
    }  # fmt: skip
    text = page("neighbours", found)
    assert text.count("0.500 (0.250 to 0.750)") == len(rows) * len(_TRUTHS)
    assert text.count("0.125") == 2 * len(_TRUTHS)
    assert [len(axes.containers) for axes in neighbours.figure(found).axes] == [2, 2]


_TRUTHS = ("article_type", "base_colour")
