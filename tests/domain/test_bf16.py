"""bfloat16 rounding against its definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.bf16 import from_bf16, to_bf16

#: Up to the largest bfloat16 (beyond it, rounding goes to infinity).
finite = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda value: abs(value) < 3.38e38)


@given(st.integers(0, 2**16 - 1))
def test_every_bfloat16_survives(bits) -> None:
    """All numbers and infinities that have 16 bits go to float32 and back unchanged."""
    values = from_bf16(np.array([bits], dtype=np.uint16))
    if not np.isnan(values[0]):
        assert to_bf16(values)[0] == bits


@given(finite)
def test_rounds_to_the_nearest_ties_to_even(value) -> None:
    """No other bfloat16 is nearer, and of two equally near ones the even one is taken."""
    bits = int(to_bf16(np.array([value], dtype=np.float32))[0])
    chosen = Fraction(float(from_bf16(np.array([bits], dtype=np.uint16))[0]))
    distance = abs(chosen - Fraction(value))
    for other in (bits - 1, bits + 1):
        neighbour = from_bf16(np.array([other & 0xFFFF], dtype=np.uint16))[0]
        if other >> 15 == bits >> 15 and np.isfinite(neighbour):
            away = abs(Fraction(float(neighbour)) - Fraction(value))
            assert distance < away or (distance == away and bits % 2 == 0)


def test_known_roundings() -> None:
    """Halfway values go to even bits; a carry reaches the exponent."""
    values = np.array([1.0, 1.00390625, 1.01171875, -1.00390625, 1.9999999, 0.0, -0.0], dtype=np.float32)
    assert [hex(bits) for bits in to_bf16(values)] == [
        "0x3f80", "0x3f80", "0x3f82", "0xbf80", "0x4000", "0x0", "0x8000"
    ]  # fmt: skip


def test_shape_is_kept_and_strides_do_not_matter() -> None:
    """A transposed view rounds like its copy."""
    values = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(to_bf16(values.T), to_bf16(np.ascontiguousarray(values.T)))
    assert to_bf16(values.T).shape == (6, 4)
