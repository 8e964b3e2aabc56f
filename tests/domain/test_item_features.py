from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import item_update

from domain.activity_row import ACTIVITY_FEATURES, Snapshots
from domain.item_features import ITEM_NUMERIC, category_buckets, item_inputs
from models.config import ModelConfig
from schemas.errors import BadInput
from schemas.records import ItemUpdate

_DIMS = ModelConfig(embedding_dim=3, category_buckets=16).dimensions
_floats = st.floats(width=32)


def _packed(values: list[float]) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


_rows = st.lists(
    st.fixed_dictionaries(
        {
            "embedding": st.none() | st.lists(_floats, min_size=3, max_size=3).map(_packed),
            "category_id": st.none() | st.integers(-(2**63), 2**63 - 1),
            "price": st.none() | st.floats(),
            "numeric": st.dictionaries(st.sampled_from(["words", "width", "height", "age", "rank"]), st.floats()),
        }
    ),
    max_size=8,
)


def _row(**fields: Any) -> ItemUpdate:
    return item_update(1, 0, **fields)


@given(_rows)
def test_batch_equals_single_and_is_finite(fields: list[dict[str, Any]]) -> None:
    """Whatever the values, inputs of many rows are those of each row alone, bit for bit, and all are finite."""
    rows = [_row(**each) for each in fields]
    together = item_inputs(rows, _DIMS)
    assert len(together) == len(rows)
    for name, value in vars(together).items():
        assert np.isfinite(value).all(), name
        alone = [getattr(item_inputs([row], _DIMS), name) for row in rows]
        np.testing.assert_array_equal(value, np.concatenate([value[:0], *alone]), err_msg=name)


def test_columns_mean_what_they_say() -> None:
    """Price, presence flags and named features stand where the documentation puts them."""
    full = _row(embedding=_packed([3, 0, 4]), category_id=5, price=9.0, numeric={"words": -2.0})
    inputs = item_inputs([full, _row()], _DIMS)
    np.testing.assert_allclose(inputs.numeric[0, :4], [math.log(10), 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(inputs.numeric[0, 4:].sum(), -math.log(3), rtol=1e-6)
    assert inputs.numeric.shape == (2, ITEM_NUMERIC)
    assert not inputs.numeric[1].any() and not inputs.embedding[1].any() and inputs.category[1] == 0


@given(st.floats(1e-3, 1e3))
def test_scale_of_an_embedding_does_not_matter(scale: float) -> None:
    """A producer may scale its embeddings: the tower sees a root mean square of 1."""
    vectors = [_row(embedding=_packed([each * factor for each in (1.0, -2.0, 0.5)])) for factor in (1.0, scale)]
    embedding = item_inputs(vectors, _DIMS).embedding
    np.testing.assert_allclose(embedding[0], embedding[1], rtol=1e-5)
    np.testing.assert_allclose(np.square(embedding).mean(axis=1), 1, rtol=1e-5)


def test_wrong_embedding_length_is_refused() -> None:
    """An embedding of another length than the model's is refused with both lengths."""
    with pytest.raises(BadInput, match="8 bytes, the model expects 12"):
        item_inputs([_row(embedding=_packed([1, 2]))], _DIMS)


def test_categories_spread_over_the_buckets() -> None:
    """Consecutive categories fill the buckets evenly; only a missing one is in bucket 0."""
    ids = np.arange(16_000, dtype=np.int64)
    buckets = category_buckets(ids, np.ones(len(ids), dtype=bool), 17)
    assert np.bincount(buckets, minlength=17)[0] == 0
    assert abs(np.bincount(buckets)[1:] - 1000).max() < 150
    assert not category_buckets(ids, np.zeros(len(ids), dtype=bool), 17).any()


def test_ids_are_an_argument_of_models_that_know_them() -> None:
    """Ids spread over the buckets from 1 on; a model without ids has no argument for them."""
    rows = [item_update(item, 0) for item in range(4_000)]
    plain, sizes = item_inputs(rows, _DIMS), replace(_DIMS, id_buckets=5)
    inputs = item_inputs(rows, sizes)
    assert len(plain.columns(_DIMS)) == 3 and not plain.identity.any()
    assert inputs.columns(sizes)[3] is inputs.identity
    counts = np.bincount(inputs.identity, minlength=5)
    assert counts[0] == 0 and abs(counts[1:] - 1000).max() < 150


def test_activity_is_the_last_columns() -> None:
    """A snapshot stands behind the catalogue's columns, which it does not change; without one there are zeros."""
    rows = [_row(price=2.0), _row()]
    activity = Snapshots.none(2)
    activity.features[1] = np.arange(ACTIVITY_FEATURES)
    plain, found = item_inputs(rows, _DIMS), item_inputs(rows, _DIMS, activity)
    assert found.numeric.shape == (2, ITEM_NUMERIC)
    np.testing.assert_array_equal(found.numeric[:, :-ACTIVITY_FEATURES], plain.numeric[:, :-ACTIVITY_FEATURES])
    np.testing.assert_array_equal(found.numeric[:, -ACTIVITY_FEATURES:], activity.features)
    assert not plain.numeric[:, -ACTIVITY_FEATURES:].any()
    np.testing.assert_array_equal(plain.with_activity(activity.features).numeric, found.numeric)
