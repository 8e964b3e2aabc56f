"""Longs by the column."""

import io

import fastavro
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.columns import encode_longs

int64 = st.integers(-(2**63), 2**63 - 1)
edges = st.sampled_from([sign * (1 << bits) + step for bits in range(63) for sign in (1, -1) for step in (-1, 0, 1)])


@given(st.lists(st.tuples(int64 | edges, int64 | edges), max_size=30))
def test_columns_equal_fastavro_record_by_record(rows: list[tuple[int, int]]) -> None:
    """Every pair of longs has the bytes that fastavro writes for it, at all sizes and both signs."""
    encoded = encode_longs(np.array(rows, dtype=np.int64).reshape(-1, 2))
    assert len(encoded) == len(rows)
    for pair, found in zip(rows, encoded, strict=True):
        out = io.BytesIO()
        for value in pair:
            fastavro.schemaless_writer(out, "long", value)
        assert found == out.getvalue()
