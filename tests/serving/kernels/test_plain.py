from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.item_features import category_buckets
from domain.n2o import Flag
from domain.tiers import tier_values
from serving.kernels import Folded, Head
from serving.kernels.plain import assemble, attention_weights, category_rows, input_width, score, tier_counts
from tests.serving.conftest import tiny_head


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([64, 128, 192]),
    tiers=st.integers(0, 20),
    behaviours=st.sampled_from([0, 1, 7, 254, 255, 256, 600]),
    seed=st.integers(0, 1000),
)
def test_tier_counts_equal_plain_loops(bits, tiers, behaviours, seed) -> None:
    """Counting eight tiers in one word gives what comparing every pair bit by bit gives."""
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) for n in (5, behaviours))
    if behaviours:
        right[0] = left[0]  # similarity one, the edge of the last tier
        right[-1] = ~left[1]  # similarity zero
    expected = np.zeros((5, tiers), dtype=int)
    equal = (np.unpackbits(left, axis=1)[:, None] == np.unpackbits(right, axis=1)).sum(-1)
    for row, each in np.argwhere(equal >= 0).tolist() if tiers else []:
        expected[row, min(tiers - 1, int(equal[row, each]) * tiers // bits)] += 1
    assert tier_counts(left, right, tiers).tolist() == expected.tolist()


def test_input_rows_equal_plain_decoding(sizes) -> None:
    """Vector, bridges, signs and tiers stand where the first layer expects them; no signature, no signs and tiers."""
    rng, layout = np.random.default_rng(1), sizes.layout
    records = layout.empty(4)
    layout.set_vectors(
        records, rng.normal(size=(4, sizes.vector_dim)).astype("f4"), rng.random((4, sizes.bridges)).astype("f4")
    )
    records["signature"] = rng.integers(0, 256, (4, 8))
    records["flags"] = [Flag.HAS_SIGNATURE, 0, Flag.HAS_SIGNATURE, Flag.HAS_SIGNATURE]
    head, folded = Head.of(tiny_head(1), sizes, 1), _folded(rng, sizes)
    out = np.full((4, input_width(sizes)), np.nan, dtype=np.float32)
    assemble(records, head, folded, sizes, out)
    signs = np.unpackbits(records["signature"], axis=1) * 2.0 - 1
    tiers = [tier_values(tier_counts(records["signature"], group, sizes.tiers)) for group in folded.groups]
    attention = attention_weights(records["signature"], folded.attended, folded.attended_signed, head.attention_table)
    compared = np.hstack([signs, *tiers, attention])
    compared[1] = 0
    expected = np.hstack([layout.vectors(records), layout.bridge_weights(records), compared])
    assert np.array_equal(out, expected.astype(np.float32))


def _folded(rng: np.random.Generator, sizes) -> Folded:
    """A user of random weights, whose attended behaviours are not all signed."""
    h1 = sizes.hidden[0]
    shapes = (h1,), (sizes.bridges, h1), (sizes.signature_bits, h1), (sizes.attended, h1), (sizes.cross_categories, h1)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    groups = tuple(rng.integers(0, 256, (count, 8), dtype=np.uint8) for count in (3, 9))
    attended = rng.integers(0, 256, (sizes.attended, 8), dtype=np.uint8)
    return Folded(*weights, groups, attended, np.arange(sizes.attended) % 3 > 0, np.array([5, 0]), 1)


def test_attention_is_the_tables_weight_by_equal_bits_of_sum_one(sizes) -> None:
    """Signed behaviours are weighted by their bits equal to the candidate's; where the table gives none, all are 0."""
    rng = np.random.default_rng(4)
    table = rng.random(65).astype(np.float32)
    candidates, behaviours = (rng.integers(0, 256, (n, 8), dtype=np.uint8) for n in (4, 5))
    signed = np.array([True, False, True, True, False])
    found = attention_weights(candidates, behaviours, signed, table)
    for candidate, row in zip(np.unpackbits(candidates, axis=1), found, strict=True):
        weights = [
            table[(candidate == each).sum()] * has
            for each, has in zip(np.unpackbits(behaviours, axis=1), signed, strict=True)
        ]
        np.testing.assert_allclose(row, np.array(weights) / sum(weights), rtol=1e-6)
    assert not attention_weights(candidates, behaviours, signed, np.zeros(65, np.float32)).any()
    assert not attention_weights(candidates, behaviours, np.zeros(5, bool), table).any()


def test_a_candidate_gets_the_row_of_its_own_category(sizes) -> None:
    """Candidates of a category that the user has add its row; all others, and those without category, add nothing."""
    folded, records = _folded(np.random.default_rng(5), sizes), sizes.layout.empty(40)
    records["category_id"] = np.arange(40)
    records["flags"] = np.where(np.arange(40) < 39, Flag.HAS_CATEGORY, 0)
    own = category_buckets(records["category_id"], records["flags"] > 0, sizes.category_buckets)
    found = category_rows(records, folded, sizes)
    assert found is not None and (own == 5).any()
    np.testing.assert_array_equal(found, np.where((own == 5)[:, None], folded.category_weight[0], 0))
    assert category_rows(records, replace(folded, categories=np.zeros(2, np.int64)), sizes) is None


def test_scores_are_the_network(sizes) -> None:
    """Two layers with relu and a sigmoid, also where the logit is large enough to overflow exp."""
    rng, (h1, h2) = np.random.default_rng(2), sizes.hidden
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731 - three uses, one line
    weights = normal(4, h1), normal(8, h1), normal(65), normal(h1, h2), normal(h2), normal(h2) * 200, np.float32(0.3)
    head = Head(*weights, version_tag=1)
    inputs, weights, bias, added = normal(50, 10), normal(10, h1), normal(h1), normal(50, h1)
    hidden = np.maximum(inputs.astype("f8") @ weights + bias + added, 0)
    logits = np.maximum(hidden @ head.w2 + head.b2, 0) @ head.w3 + head.b3
    assert np.abs(logits).max() > 100
    with np.errstate(all="raise", under="ignore"):
        found = score(inputs, weights, bias, added, head)
    assert found.dtype == np.float32
    assert np.allclose(found, 1 / (1 + np.exp(-np.clip(logits, -500, 500))), atol=1e-5)
