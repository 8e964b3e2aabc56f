"""Single-object encoding: what goes in comes out, and nothing else is taken for a record."""

from __future__ import annotations

import json
from importlib import resources

import fastavro.schema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec, codec, schema_names
from schemas.errors import DecodeError

every_schema = pytest.mark.parametrize("name", schema_names())
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1


def avsc(name: str) -> dict:
    """A schema file."""
    return json.loads((resources.files("schemas") / "avro" / f"{name}.avsc").read_text())


def zigzag(number: int) -> bytes:
    """Avro's variable-length encoding of a long."""
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


@every_schema
@given(data=st.data())
def test_round_trip(records, name, data) -> None:
    """Every record of every schema survives, after the marker and the schema's fingerprint."""
    record = data.draw(records(name))
    encoded = codec(name).encode(record)
    assert encoded.startswith(b"\xc3\x01" + codec(name).fingerprint)
    assert codec(name).decode(encoded) == record


@every_schema
@given(data=st.data())
def test_truncated_at_every_length(records, name, data) -> None:
    """No proper prefix of a record is a record; the reason says whether its header was whole."""
    encoded = codec(name).encode(data.draw(records(name)))
    for length in range(len(encoded)):
        with pytest.raises(DecodeError) as refused:
            codec(name).decode(encoded[:length])
        assert refused.value.reason == ("not_single_object" if length < 10 else "undecodable")


@every_schema
@given(data=st.data())
def test_corrupted_bodies_are_refused_or_valid(records, name, data) -> None:
    """Any bytes after a good header give DecodeError `undecodable`, or a record that can be written again."""
    encoded = bytearray(codec(name).encode(data.draw(records(name))))
    changes = st.tuples(st.integers(10, max(10, len(encoded) - 1)), st.binary(max_size=12), st.integers(0, 3))
    for place, inserted, removed in data.draw(st.lists(changes, min_size=1, max_size=3)):
        encoded[place : place + removed] = inserted
    try:
        record = codec(name).decode(bytes(encoded))
    except DecodeError as error:
        assert error.reason == "undecodable"
    else:
        codec(name).encode(record)


@given(st.binary(max_size=60))
def test_random_bytes_are_no_record(data) -> None:
    """Bytes that do not start as ours are `not_single_object`, or of an unknown schema."""
    with pytest.raises(DecodeError) as refused:
        codec("user_event").decode(data)
    assert refused.value.reason in ("not_single_object", "unknown_schema")


@every_schema
@given(data=st.data())
def test_bytes_left_over(records, name, data) -> None:
    """A record followed by anything is not a record."""
    encoded = codec(name).encode(data.draw(records(name)))
    with pytest.raises(DecodeError, match="left over") as refused:
        codec(name).decode(encoded + data.draw(st.binary(min_size=1, max_size=4)))
    assert refused.value.reason == "undecodable"


def test_nothing_and_null() -> None:
    """A missing value and an empty one are told apart."""
    for data, reason in ((None, "null_value"), (b"", "not_single_object")):
        with pytest.raises(DecodeError) as refused:
            codec("user_event").decode(data)
        assert refused.value.reason == reason


def test_a_record_of_another_schema() -> None:
    """A well-formed record of another schema is refused by its fingerprint."""
    with pytest.raises(DecodeError) as refused:
        codec("user_event").decode(codec("n2o_row").encode({"record": b"abc"}))
    assert refused.value.reason == "unknown_schema"


@pytest.mark.parametrize("length", [-1, 4, 2**31, 2**40, LONG_MAX, LONG_MIN])
def test_a_huge_length_allocates_nothing(length) -> None:
    """A declared length beyond the data is refused without reserving memory for it."""
    rows, updates = codec("n2o_row"), codec("item_update")
    before_map = zigzag(1) * 3 + zigzag(0) * 7
    for each, body in ((rows, b""), (updates, before_map)):
        with pytest.raises(DecodeError) as refused:
            each.decode(each.header + body + zigzag(length) + b"abc")
        assert refused.value.reason == "undecodable"


@pytest.mark.parametrize("place", [4, 5])
def test_an_index_beyond_the_symbols(place) -> None:
    """An enum symbol or a union branch that does not exist is refused."""
    body = [zigzag(0)] * 9
    body[place] = zigzag(99)
    with pytest.raises(DecodeError) as refused:
        codec("user_event").decode(codec("user_event").header + b"".join(body))
    assert refused.value.reason == "undecodable"


@pytest.mark.parametrize(
    "change", [{"user_id": "7"}, {"user_id": None}, {"user_id": 2**63}, {"action": "stare"}, {"category_id": 1.5}]
)
def test_a_field_that_does_not_fit_is_not_encoded(change) -> None:
    """A wrong type, a number beyond int64 and an unknown symbol are errors of the writer."""
    event = {
        "event_id": 1, "user_id": 2, "item_id": 3, "event_time_ms": 4, "action": "click",
        "category_id": None, "value": None, "original_user_id": None, "original_item_id": None,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError, OverflowError)):
        codec("user_event").encode(event | change)


def test_fingerprints_of_the_specification() -> None:
    """CRC-64-AVRO of "null" and "int" as in Avro's own test data, and of every schema as fastavro computes it."""
    for schema, expected in (('"null"', 0x63DD24E7CC258F8A), ('"int"', 0x7275D51A3F395C8F)):
        assert fastavro.schema.fingerprint(schema, "CRC-64-AVRO") == expected.to_bytes(8, "little").hex()


@every_schema
def test_the_fingerprint_ignores_prose(name) -> None:
    """Documentation and defaults do not change it; a renamed field does."""
    schema = avsc(name)
    assert Codec(schema | {"doc": "other words"}).fingerprint == codec(name).fingerprint
    fields = [*schema["fields"]]
    fields[0] = fields[0] | {"name": "renamed"}
    assert Codec(schema | {"fields": fields}).fingerprint != codec(name).fingerprint


def test_every_schema_has_its_own_fingerprint() -> None:
    """No two schemas can be confused."""
    assert len({codec(name).fingerprint for name in schema_names()}) == len(schema_names())


def test_a_retired_writer_is_resolved() -> None:
    """Records of a retired schema are read as today's: new fields get their defaults, dropped ones go."""
    today = avsc("user_event")
    kept = [field for field in today["fields"] if field["name"] != "value"]
    old = today | {"fields": [*kept, {"name": "device", "type": "string"}]}
    record = {
        "event_id": 1, "user_id": 2, "item_id": 3, "event_time_ms": 4, "action": "cart",
        "category_id": 5, "original_user_id": "u", "original_item_id": None,
    }  # fmt: skip
    encoded = Codec(old).encode(record | {"device": "phone"})
    assert Codec(today, (old,)).decode(encoded) == record | {"value": None}
    with pytest.raises(DecodeError) as refused:
        Codec(today).decode(encoded)
    assert refused.value.reason == "unknown_schema"


def test_a_retired_record_is_checked_as_any_other() -> None:
    """Truncation inside a dropped field, and a value that today's schema lost, are refused."""
    today = avsc("item_update")
    shorter = {"type": "enum", "name": "ItemOp", "symbols": ["upsert"]}
    fields = [field | {"type": shorter} if field["name"] == "op" else field for field in today["fields"]]
    reader = Codec(today | {"fields": fields[:4]}, (today,))
    update = {
        "event_id": 1, "item_id": 2, "event_time_ms": 3, "op": "upsert", "original_id": None, "title": "t",
        "category_id": None, "price": None, "published_ms": None, "embedding": None, "numeric": {"a": 1.0},
    }  # fmt: skip
    encoded = codec("item_update").encode(update)
    assert reader.decode(encoded) == {"event_id": 1, "item_id": 2, "event_time_ms": 3, "op": "upsert"}
    refused = [encoded[:length] for length in range(10, len(encoded))]
    for data in [*refused, encoded + b"x", codec("item_update").encode(update | {"op": "delete"})]:
        with pytest.raises(DecodeError) as error:
            reader.decode(data)
        assert error.value.reason == "undecodable"


@given(st.binary(max_size=70_000))
def test_bytes_prefix_is_what_the_encoder_writes(record) -> None:
    """The prefix and the bytes are the encoded record."""
    rows = codec("n2o_row")
    assert rows.bytes_prefix(len(record)) + record == rows.encode({"record": record})


@pytest.mark.parametrize("length", [0, 63, 64, 256, 8191, 8192, 2**20])
def test_bytes_prefix_at_the_edges_of_its_encoding(length) -> None:
    """The length's own length changes where the encoding says."""
    rows = codec("n2o_row")
    assert rows.bytes_prefix(length) + bytes(length) == rows.encode({"record": bytes(length)})
