"""The N2O record's bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.bf16 import to_bf16
from domain.n2o import Flag, N2OLayout

DEFAULT = N2OLayout(vector_dim=64, bridges=16, signature_bits=64)


def test_default_layout_is_as_documented() -> None:
    """Offsets and size of the default record are those of the table in the module's docstring."""
    assert DEFAULT.stride == 256
    assert {name: DEFAULT.dtype.fields[name][1] for name in DEFAULT.dtype.names} == {
        "item_id": 0, "event_time_ms": 8, "source_topic_id": 16, "source_offset": 24, "version": 32,
        "snapshot_ms": 40, "category_id": 48, "price": 56, "flags": 60, "signature": 64, "bridges": 72, "vector": 104,
    }  # fmt: skip


def test_bytes_of_a_record() -> None:
    """Fields are little-endian at their offsets, whatever the machine."""
    record = DEFAULT.empty(1)
    record["item_id"], record["version"], record["flags"] = -2, 0xFEDCBA9876543210, Flag.DELETED | Flag.HAS_PRICE
    record["price"] = 2.5
    raw = record.tobytes()
    assert struct.unpack_from("<q", raw, 0)[0] == -2
    assert struct.unpack_from("<Q", raw, 32)[0] == 0xFEDCBA9876543210
    assert struct.unpack_from("<fI", raw, 56) == (2.5, 5)


@given(st.integers(1, 200), st.integers(1, 40), st.sampled_from([64, 128, 256]))
def test_any_layout_is_aligned_and_without_overlap(vector_dim, bridges, bits) -> None:
    """Fields follow each other without overlap; the stride is the next multiple of 64."""
    dtype = N2OLayout(vector_dim, bridges, bits).dtype
    end = 0
    for name in dtype.names:
        kind, start = dtype.fields[name][:2]
        assert start == end
        end = start + kind.itemsize
    assert dtype.itemsize % 64 == 0
    assert 0 <= dtype.itemsize - end < 64
    assert dtype.fields["vector"][0].shape == (vector_dim,)
    assert dtype.fields["bridges"][0].shape == (bridges,)


@pytest.mark.parametrize("layout", [DEFAULT, N2OLayout(1, 1, 64), N2OLayout(48, 7, 128)])
def test_vectors_are_read_as_they_were_rounded(layout) -> None:
    """What is stored is the nearest bfloat16, of vectors and of bridges, row by row, through bytes."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((5, layout.vector_dim), dtype=np.float32)
    bridges = random.random((5, layout.bridges), dtype=np.float32)
    records = layout.empty(5)
    layout.set_vectors(records, vectors, bridges)
    stored = np.frombuffer(records.tobytes(), dtype=layout.dtype)
    np.testing.assert_array_equal(to_bf16(layout.vectors(stored)), to_bf16(vectors))
    np.testing.assert_array_equal(to_bf16(layout.bridge_weights(stored)), to_bf16(bridges))
    np.testing.assert_allclose(layout.vectors(stored), vectors, rtol=2**-8)
