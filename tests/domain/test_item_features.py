"""Tower inputs of catalogue rows: scale, absence, categories and named features."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.artifact import Dimensions
from domain.item_features import ITEM_NUMERIC, category_buckets, item_inputs, packed_column
from schemas.errors import BadInput
from schemas.records import ItemUpdate

DIMS = Dimensions(
    embedding_dim=3, signature_bits=64, category_buckets=16, item_numeric=ITEM_NUMERIC, vector_dim=64, bridges=16,
    tiers=8, behaviours=32, user_features=56, hidden=(128, 64),
)  # fmt: skip


def item(**fields: object) -> ItemUpdate:
    """An item with nothing but these fields."""
    nothing = {
        "event_id": 1, "item_id": 7, "event_time_ms": 0, "op": "upsert", "original_id": None, "title": None,
        "category_id": None, "price": None, "published_ms": None, "embedding": None, "numeric": {},
    }  # fmt: skip
    return {**nothing, **fields}  # type: ignore[typeddict-item]


floats = st.floats(allow_nan=False, allow_infinity=False)
items = st.builds(
    lambda category, price, embedding, numeric: item(
        category_id=category,
        price=price,
        embedding=None if embedding is None else np.array(embedding, "<f4").tobytes(),
        numeric=numeric,
    ),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | floats,
    st.none() | st.lists(st.floats(width=32), min_size=3, max_size=3),
    st.dictionaries(st.text(max_size=4), floats, max_size=4),
)


@given(st.lists(items, min_size=1, max_size=5))
def test_a_batch_equals_its_items_and_is_finite(rows) -> None:
    """An item's inputs are finite, in range, and the same bytes alone and beside others."""
    together = item_inputs(rows, DIMS)
    assert np.isfinite(together.embedding).all()
    assert np.isfinite(together.numeric).all()
    assert ((together.category >= 0) & (together.category < DIMS.category_buckets)).all()
    for place, row in enumerate(rows):
        alone = item_inputs([row], DIMS)
        for name, column in vars(alone).items():
            assert column[0].tobytes() == getattr(together, name)[place].tobytes()


def test_absent_and_zero_differ() -> None:
    """A price or category of 0 is not the absence of one."""
    inputs = item_inputs([item(), item(price=0.0, category_id=0)], DIMS)
    assert inputs.numeric[0].tolist() == [0.0] * ITEM_NUMERIC
    assert inputs.numeric[1, :4].tolist() == [0, 1, 0, 1]
    assert inputs.category[0] == 0
    assert inputs.category[1] > 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_embeddings_are_scaled_to_one(scale) -> None:
    """Whatever a producer's scale, the root mean square is 1 and the direction stays."""
    raw = (np.array([1, -2, 2]) * scale).astype("<f4")
    scaled = item_inputs([item(embedding=raw.tobytes())], DIMS).embedding[0]
    np.testing.assert_allclose(scaled, np.array([1, -2, 2]) / math.sqrt(3), rtol=1e-6)


def test_prices_and_names_are_signed_logs() -> None:
    """Known values; a named feature goes to one column, the same in any order of the map."""
    first = item_inputs([item(price=-3.0, numeric={"a": 1.0, "b": 2.0, "c": 3.0})], DIMS).numeric[0]
    other = item_inputs([item(price=-3.0, numeric={"c": 3.0, "b": 2.0, "a": 1.0})], DIMS).numeric[0]
    assert first[0] == np.float32(-math.log(4))
    assert first.tobytes() == other.tobytes()
    assert first[4:].sum() == pytest.approx(math.log(2) + math.log(3) + math.log(4), rel=1e-6)


def test_a_wrong_length_is_refused() -> None:
    """An embedding of another size than the model's is named, with both sizes."""
    with pytest.raises(BadInput, match=r"8 bytes.*12"):
        item_inputs([item(embedding=bytes(8))], DIMS)


def test_packed_columns_mark_what_was_there() -> None:
    """Zeros stand for None, and the mask says so."""
    column, present = packed_column([b"ab", None], 2, "pair")
    assert column.tolist() == [[97, 98], [0, 0]]
    assert present.tolist() == [True, False]


def test_categories_spread() -> None:
    """Consecutive, strided and large ids reach every bucket about evenly; the bucket of none is theirs alone."""
    for ids in (np.arange(15_000), np.arange(15_000) * 1024, np.arange(15_000) + 2**62):
        buckets = category_buckets(ids, np.ones(15_000, dtype=bool), 16)
        counts = np.bincount(buckets, minlength=16)
        assert counts[0] == 0
        assert counts[1:].min() > 700
