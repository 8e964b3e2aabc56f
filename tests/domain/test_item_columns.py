"""Rows of table items by the column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.item_columns import NAMED_COLUMNS, ItemColumns, RowFormat, named_features
from schemas.errors import BadInput
from schemas.ids import hashed_id
from schemas.records import ItemRow

FORMAT = RowFormat(2, 16, "planes")
_ROW = ItemRow(
    item_id=5, event_time_ms=6, source_topic_id=7, source_offset=8, deleted=False, original_id=None, title=None,
    category_id=None, price=None, published_ms=None, embedding=None, numeric={}, signature=None, signature_version="",
)  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["a", "b", "ü", "zz", "weight"]),
            st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf]),
        )
    )
)
def test_named_features_are_sums_in_order_of_names(entries: list[tuple[int, str, float]]) -> None:
    """Each row's columns are the float32 sums of its map's values in the order of their names, whatever the order."""
    expected = np.zeros((4, NAMED_COLUMNS), dtype=np.float32)
    for row in range(4):
        values = {name: value for place, name, value in entries if place == row}
        for name in sorted(values):
            if np.isfinite(values[name]):
                added = np.float32(np.copysign(np.log1p(abs(values[name])), values[name]))
                expected[row, hashed_id(name) % NAMED_COLUMNS] += added
    places, names, values_of = zip(*entries, strict=True) if entries else ((), (), ())
    found = named_features(np.array(places, dtype=np.int64), names, np.array(values_of, dtype=np.float64), 4)
    assert np.array_equal(found, expected)


def test_signatures_of_other_hyperplanes_are_left_out_whatever_their_length() -> None:
    """A signature counts where its hyperplanes are the format's, and must have its length then."""
    rows = [
        {**_ROW, "signature": b"ab", "signature_version": "planes"},
        {**_ROW, "signature": b"abc", "signature_version": "others"},
    ]
    columns = ItemColumns.of(rows, FORMAT)  # type: ignore[arg-type]
    assert columns.has_signature.tolist() == [True, False]
    assert columns.signature.tolist() == [[97, 98], [0, 0]]
    with pytest.raises(BadInput, match="signature has 3 bytes, the model expects 2"):
        ItemColumns.of([{**_ROW, "signature": b"abc", "signature_version": "planes"}], FORMAT)


def test_some_rows_are_taken_by_place() -> None:
    """Every column of the taken rows is the original's."""
    rows = [{**_ROW, "item_id": item, "price": float(item), "category_id": item} for item in range(4)]
    taken = ItemColumns.of(rows, FORMAT).take(np.array([3, 1]))  # type: ignore[arg-type]
    assert (len(taken), taken.item_id.tolist(), taken.catalogue.price.tolist()) == (2, [3, 1], [3.0, 1.0])
    assert taken.catalogue.category.tolist() == [3, 1] and taken.catalogue.embedding.shape == (2, 8)
