"""The compiled decoder of item rows equals fastavro and the columns made of its dictionaries."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.item_column_kernel import decoded_items
from domain.item_columns import CatalogueColumns, ItemColumns, RowFormat
from schemas.codec import codec
from schemas.errors import BadInput, DecodeError

FORMAT = RowFormat(2, 16, "planes")
_longs = st.integers(-(2**63), 2**63 - 1)
_texts = st.none() | st.text(max_size=9)
_rows = st.fixed_dictionaries(
    {
        "item_id": _longs,
        "event_time_ms": _longs,
        "source_topic_id": _longs,
        "source_offset": _longs,
        "deleted": st.booleans(),
        "original_id": _texts,
        "title": _texts,
        "category_id": st.none() | _longs,
        "price": st.none() | st.floats(),
        "published_ms": st.none() | _longs,
        "embedding": st.none() | st.binary(min_size=8, max_size=8),
        "numeric": st.dictionaries(st.text(max_size=3), st.floats(), max_size=4),
        "signature": st.none() | st.binary(min_size=2, max_size=2),
        "signature_version": st.sampled_from(["planes", "planet", "", "others"]),
    }
)


def _equal(found: Any, expected: Any) -> bool:
    for each in fields(expected):
        mine, theirs = getattr(found, each.name), getattr(expected, each.name)
        same = _equal(mine, theirs) if each.name == "catalogue" else np.array_equal(mine, theirs, each.name == "price")
        if not same or (each.name != "catalogue" and mine.dtype != theirs.dtype):
            return False
    return True


def _encoded(row: dict[str, Any]) -> bytes:
    return codec("item_row").encode(row)


@given(st.lists(_rows, max_size=6))
def test_columns_equal_those_of_decoded_rows(rows: list[Any]) -> None:
    """Any rows give the columns that their dictionaries give, bit for bit."""
    assert _equal(decoded_items(list(map(_encoded, rows)), FORMAT), ItemColumns.of(rows, FORMAT))


@given(_rows, st.data())
def test_damaged_rows_are_read_as_fastavro_reads_them_or_refused(row: Any, data: st.DataObject) -> None:
    """A row that is cut or altered is refused, or what fastavro makes of it where that can read it; never a crash."""
    whole = _encoded(row)
    place = data.draw(st.integers(10, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from([whole[:place], whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]])
    )
    try:
        decoded: Any = codec("item_row").decode(damaged)
    except DecodeError:
        with suppress(DecodeError, BadInput):  # a text that is no UTF-8 is not looked at
            assert len(decoded_items([whole, damaged, whole], FORMAT)) == 3
        return
    try:
        found = decoded_items([whole, damaged, whole], FORMAT)
    except BadInput:
        return  # a vector of another length
    assert _equal(found, ItemColumns.of([row, decoded, row], FORMAT))


def test_maps_of_several_blocks_and_long_varints_are_read() -> None:
    """What other writers may write: a map in blocks with their sizes, a name twice, and varints of needless length."""
    row = {
        "item_id": 1, "event_time_ms": 2, "source_topic_id": 3, "source_offset": 4, "deleted": False,
        "original_id": None, "title": None, "category_id": None, "price": None, "published_ms": None,
        "embedding": None, "numeric": {"a": 1.0, "b": 2.0}, "signature": None, "signature_version": "planes",
    }  # fmt: skip
    one, two, three = (np.float64(value).tobytes() for value in (1.0, 2.0, 9.0))
    blocks = b"\x02" + b"\x02a" + three + b"\x01\x14" + b"\x02a" + one + b"\x02" + b"\x02b" + two + b"\x00"
    plain = _encoded(row)
    entries = b"\x04" + b"\x02a" + one + b"\x02b" + two + b"\x00"
    assert plain.count(entries) == 1
    blocky = plain.replace(entries, blocks).replace(b"\x02\x04\x06\x08", b"\x82\x00\x04\x06\x08", 1)
    assert codec("item_row").decode(blocky) == codec("item_row").decode(plain)
    assert _equal(decoded_items([blocky], FORMAT), decoded_items([plain], FORMAT))


def test_vectors_of_another_length_are_named() -> None:
    """The message says what was found and what the model expects."""
    base = {
        "item_id": 1, "event_time_ms": 2, "source_topic_id": 3, "source_offset": 4, "deleted": False,
        "original_id": None, "title": None, "category_id": None, "price": None, "published_ms": None,
        "embedding": None, "numeric": {}, "signature": None, "signature_version": "planes",
    }  # fmt: skip
    with pytest.raises(BadInput, match="embedding has 12 bytes, the model expects 8"):
        decoded_items([_encoded({**base, "embedding": bytes(12)})], FORMAT)
    with pytest.raises(BadInput, match="signature has 1 bytes, the model expects 2"):
        decoded_items([_encoded({**base, "signature": b"a"})], FORMAT)


def test_many_named_features_grow_their_room() -> None:
    """More names than rows are all read."""
    base = {
        "item_id": 1, "event_time_ms": 2, "source_topic_id": 3, "source_offset": 4, "deleted": False,
        "original_id": None, "title": None, "category_id": None, "price": None, "published_ms": None,
        "embedding": None, "signature": None, "signature_version": "",
    }  # fmt: skip
    rows: list[Any] = [{**base, "numeric": {f"name {each}": float(each) for each in range(3_000)}}]
    found: CatalogueColumns = decoded_items([_encoded(rows[0])], FORMAT).catalogue
    assert _equal(found, ItemColumns.of(rows, FORMAT).catalogue)
