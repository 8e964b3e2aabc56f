from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bf16 import from_bf16
from domain.n2o import Flag
from schemas.errors import BadInput
from serving.kernels.native import Native
from serving.kernels.plain import Plain, attention_weights, category_rows, tier_counts
from tests.serving.kernels.conftest import Case, made_up


def _kernel() -> Native | None:
    try:
        return Native(precision="int8")
    except BadInput:  # another processor: the kernels that run on it have the tests of test_kernels.py
        return None


KERNEL = _kernel()
runs_here = pytest.mark.skipif(KERNEL is None, reason="the processor has no AVX-512 VNNI")


def _rounded(values, most, axis):
    """Values as whole numbers of a unit, the largest magnitude along the axis / most."""
    unit = np.abs(values).max(axis=axis, keepdims=True, initial=0) / np.float32(most)
    return np.rint(values / np.where(unit == 0, 1, unit)) * unit


def plainly(case: Case) -> np.ndarray:
    """The scores of int8 in float32: every rounding that the kernel makes, and nothing of how it makes it."""
    sizes, folded, head = case.sizes, case.folded, case.head
    records = case.rows.view(sizes.layout.dtype)[:, 0]
    signed = (records["flags"] & Flag.HAS_SIGNATURE != 0)[:, None]
    packed = np.ascontiguousarray(records["signature"])
    most = np.log1p(np.float32(max([1.0, *(len(group) for group in folded.groups)])))
    most = max(np.float32(1), most)
    tiers = [np.log1p(tier_counts(packed, each, sizes.tiers)) / most for each in folded.groups]
    own = np.flatnonzero(folded.attended_signed)
    attended = attention_weights(packed, folded.attended, folded.attended_signed, head.attention_table)[:, own]
    shares = np.concatenate(
        (*(each * signed for each in tiers), from_bf16(records["bridges"]), attended * signed), axis=1
    )
    weights = np.concatenate((head.tier_weight * most, folded.bridge_weight, folded.attention_weight[own]))
    hidden = np.rint(shares * 255) / 255 @ _rounded(weights, 127, 0)
    hidden += _rounded(from_bf16(records["vector"]), 127, 1) @ _rounded(head.vector_weight, 127, 0)
    bits = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
    hidden += (bits * signed) @ folded.signature_weight[: sizes.sign_columns] if sizes.din else 0
    added = category_rows(records, folded, sizes)
    hidden = np.maximum(hidden + folded.bias + (0 if added is None else added), 0)
    logits = np.maximum(_rounded(hidden, 255, 1) @ _rounded(head.w2, 127, 0) + head.b2, 0) @ head.w3 + head.b3
    return 1 / (1 + np.exp(-logits))


@runs_here
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    candidates=st.sampled_from([1, 5, 49, 300, 1000]),
    bits=st.sampled_from([64, 128]),
    tiers=st.sampled_from([0, 1, 8, 12, 32]),
    groups=st.lists(st.sampled_from([0, 1, 63, 1100]), max_size=3).map(tuple),
    attended=st.sampled_from([0, 1, 17, 40]),
    odd=st.booleans(),
)
def test_nothing_but_the_stated_roundings_is_lost(seed, candidates, bits, tiers, groups, attended, odd) -> None:
    """Its scores are those of the plain formula whose inputs, weights and hidden values are rounded as stated."""
    shape = {"vector_dim": 7, "bridges": 3, "hidden": (10, 70)} if odd else {}
    case = made_up(seed, candidates, bits=bits, tiers=tiers, groups=groups, attended=attended, **shape)
    assert KERNEL is not None
    found = KERNEL.prepare(case.head, case.sizes, case.folded).score(case.rows)
    apart = np.abs(found - plainly(case))
    assert apart.max() < 6e-3  # a value on the edge between two counts may fall to either


@runs_here
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-3, 1e3, 1e20])
def test_vectors_of_any_length_are_rounded_by_their_own(scale) -> None:
    """A vector's unit is its own: long and short ones of one request lose the same share, and none overflows."""
    case = made_up(8, 60)
    vectors = case.rows.view(case.sizes.layout.dtype)["vector"]
    long = from_bf16(vectors[::2]) * np.float32(scale)
    vectors[::2] = (long.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert KERNEL is not None
    expected = Plain().prepare(case.head, case.sizes, case.folded).score(case.rows)
    found = KERNEL.prepare(case.head, case.sizes, case.folded).score(case.rows)
    assert np.abs(found - expected).max() < 3e-2


@runs_here
@pytest.mark.parametrize("part", ["vector", "bridges"])
@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF], ids=["inf", "-inf", "nan", "-nan"])
def test_a_row_that_is_not_finite_has_no_score(part, bits) -> None:
    """Whole numbers know no NaN: a row with one anywhere has no score all the same, and no other row loses its own."""
    case = made_up(1, 50)
    assert KERNEL is not None
    prepared = KERNEL.prepare(case.head, case.sizes, case.folded)
    before = prepared.score(case.rows)
    case.rows.view(case.sizes.layout.dtype)[part][7, 0, -1] = bits
    found = prepared.score(case.rows)
    assert np.isnan(found[7]) and np.array_equal(np.delete(found, 7), np.delete(before, 7))


@runs_here
@pytest.mark.parametrize("name", ["bridge_weight", "attention_weight", "bias", "signature_weight"])
def test_a_user_who_is_not_finite_has_no_scores(name) -> None:
    """A weight of the user that is not a number gives no score to any candidate that it meets."""
    case = made_up(1, 50)
    getattr(case.folded, name)[..., 3] = np.nan
    assert KERNEL is not None
    found = KERNEL.prepare(case.head, case.sizes, case.folded).score(case.rows)
    signed = case.rows.view(case.sizes.layout.dtype)["flags"][:, 0] & Flag.HAS_SIGNATURE != 0
    assert np.isnan(found[signed]).all()


def test_a_score_of_the_oracle_is_what_this_file_rounds() -> None:
    """Without rounding, the formula above is the oracle's: what it says of int8 is about the same network."""
    case = made_up(3, 200)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"{__name__}._rounded", lambda values, most, axis: values)
        patched.setattr(f"{__name__}.np.rint", lambda values: values)
        found = plainly(case)
    expected = Plain().prepare(case.head, case.sizes, case.folded).score(case.rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
