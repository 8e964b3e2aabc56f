"""Signatures: frozen planes, batch equals row, popcount equals the product of signs, angle in expectation."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from domain.lsh import hyperplanes, signatures, signs, similarity

packed = arrays(np.uint8, st.tuples(st.integers(1, 6), st.just(8)))


@given(packed, packed)
def test_popcount_is_the_product_of_signs(left, right) -> None:
    """Share of equal bits = (m + s_x . s_y) / 2m, exactly."""
    expected = (64 + signs(left) @ signs(right).T) / np.float32(128)
    np.testing.assert_array_equal(similarity(left, right), expected)


@given(arrays(np.float32, (7, 16), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_a_batch_equals_its_rows(embeddings) -> None:
    """A signature does not depend on what it was computed with, also near a plane."""
    planes = hyperplanes(5, 64, 16)
    one_by_one = [signatures(row[None], planes)[0] for row in embeddings]
    np.testing.assert_array_equal(signatures(embeddings, planes), one_by_one)


def test_bits_are_the_sides_of_the_planes() -> None:
    """Bit b, most significant first, is 1 where the embedding is on the plane's positive side or on the plane."""
    planes = hyperplanes(5, 64, 3)
    embeddings = np.vstack([np.random.default_rng(0).standard_normal((20, 3)), np.zeros((1, 3))]).astype(np.float32)
    sides = embeddings.astype(np.float64) @ planes.T.astype(np.float64) >= 0
    np.testing.assert_array_equal(signs(signatures(embeddings, planes)), np.where(sides, 1, -1))


def test_planes_are_frozen() -> None:
    """The planes of a deployment are these bytes on every machine: signatures of years ago still compare."""
    planes = hyperplanes(20251112, 64, 64)
    assert planes.shape == (64, 64)
    assert not planes.flags.writeable
    assert hashlib.sha256(planes.astype("<f4").tobytes()).hexdigest()[:16] == "5a45680791ecd359"


def test_similarity_follows_the_angle() -> None:
    """Over many bits the share of equal bits is 1 - angle / pi."""
    planes = hyperplanes(1, 8192, 2)
    angles = np.array([0, np.pi / 6, np.pi / 2, 3 * np.pi / 4, np.pi])
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = similarity(signatures(around[:1], planes), signatures(around, planes))[0]
    np.testing.assert_allclose(found, 1 - angles / np.pi, atol=0.02)
