from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.kernels import rank


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
