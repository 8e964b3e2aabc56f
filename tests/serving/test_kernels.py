from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.n2o import Flag
from schemas.errors import ArtifactError
from serving.kernels import Head, assemble, input_width, rank, score, tier_counts


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([64, 128, 192]),
    tiers=st.integers(0, 20),
    behaviours=st.integers(0, 40),
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
    for row, candidate in enumerate(np.unpackbits(left, axis=1)):
        for behaviour in np.unpackbits(right, axis=1):
            if tiers:
                equal = int((candidate == behaviour).sum())
                expected[row, min(tiers - 1, equal * tiers // bits)] += 1
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
    behaviours = rng.integers(0, 256, (3, 8), dtype=np.uint8)
    out = np.full((4, input_width(sizes)), np.nan, dtype=np.float32)
    assemble(records, behaviours, sizes, out)
    signs = np.unpackbits(records["signature"], axis=1) * 2.0 - 1
    tiers = tier_counts(records["signature"], behaviours, sizes.tiers) / 3
    signs[1], tiers[1] = 0, 0
    expected = np.hstack([layout.vectors(records), layout.bridge_weights(records), signs, tiers])
    assert np.array_equal(out, expected.astype(np.float32))


def test_scores_are_the_network(sizes) -> None:
    """Two layers with relu and a sigmoid, also where the logit is large enough to overflow exp."""
    rng, (h1, h2) = np.random.default_rng(2), sizes.hidden
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731 - three uses, one line
    head = Head(normal(4, h1), normal(8, h1), normal(h1, h2), normal(h2), normal(h2) * 200, np.float32(0.3))
    inputs, weights, bias = normal(50, 10), normal(10, h1), normal(h1)
    hidden = np.maximum(inputs.astype("f8") @ weights + bias, 0)
    logits = np.maximum(hidden @ head.w2 + head.b2, 0) @ head.w3 + head.b3
    assert np.abs(logits).max() > 100
    with np.errstate(all="raise", under="ignore"):
        found = score(inputs, weights, bias, head)
    assert found.dtype == np.float32
    assert np.allclose(found, 1 / (1 + np.exp(-np.clip(logits, -500, 500))), atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 40),
    st.randoms(),
)
def test_rank_equals_a_sort_and_ties_go_to_the_smaller_id(candidates, top_k, random) -> None:
    """Servable first, score descending, item id ascending, cut at k: for any order of the candidates."""
    ids = random.sample(range(-50, 50), len(candidates))
    scores = np.array([value for value, _ in candidates], dtype=np.float32)
    servable = np.array([is_servable for _, is_servable in candidates])
    key = lambda index: (not servable[index], -scores[index] if servable[index] else 0, ids[index])  # noqa: E731
    expected = sorted(range(len(ids)), key=key)[:top_k]
    assert rank(scores, np.array(ids), servable, top_k).tolist() == expected


@pytest.mark.parametrize(("name", "value"), [("w3", None), ("b2", np.zeros(3, "f4")), ("w2", np.zeros((5, 4), "f8"))])
def test_a_head_of_other_shapes_is_refused_by_name(sizes, name, value) -> None:
    """A missing, wrongly shaped or wrongly typed array is named."""
    h1, h2 = sizes.hidden
    shapes = {"vector_weight": (4, h1), "tier_weight": (8, h1), "w2": (h1, h2), "b2": (h2,), "w3": (h2,), "b3": ()}
    arrays = {each: np.zeros(shape, np.float32) for each, shape in shapes.items()}
    Head.of(arrays, sizes)
    arrays[name] = value
    with pytest.raises(ArtifactError, match=name):
        Head.of({each: array for each, array in arrays.items() if array is not None}, sizes)
