"""Which changes of a schema are allowed, by Avro's own library; and that it reads what we write."""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import avro.io
import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import codec, schema_names

every_schema = pytest.mark.parametrize("name", schema_names())
FOLDER = Path(str(resources.files("schemas"))) / "avro"
RETIRED = sorted((FOLDER / "retired").glob("*.avsc"))


def avsc(name: str) -> dict[str, Any]:
    """A schema file."""
    return json.loads((FOLDER / f"{name}.avsc").read_text())


def reads(reader: dict[str, Any], writer: dict[str, Any]) -> bool:
    """Whether a reader's schema resolves everything of a writer's."""
    parsed = [avro.schema.parse(json.dumps(schema)) for schema in (reader, writer)]
    result = ReaderWriterCompatibilityChecker().get_compatibility(*parsed)
    return result.compatibility is SchemaCompatibilityType.compatible


def changed(schema: dict[str, Any], field: str, **change: Any) -> dict[str, Any]:
    """The schema with a field altered."""
    return schema | {"fields": [each | change if each["name"] == field else each for each in schema["fields"]]}


def with_field(schema: dict[str, Any], **field: Any) -> dict[str, Any]:
    """The schema with a field more."""
    return schema | {"fields": [*schema["fields"], field]}


def without_field(schema: dict[str, Any], field: str) -> dict[str, Any]:
    """The schema with a field less."""
    return schema | {"fields": [each for each in schema["fields"] if each["name"] != field]}


@every_schema
def test_a_field_with_a_default_can_come_and_go(name) -> None:
    """Old and new read each other when the new field has a default."""
    old = avsc(name)
    new = with_field(old, name="later", type=["null", "long"], default=None)
    assert reads(new, old)
    assert reads(old, new)


@every_schema
def test_a_field_without_a_default_cannot_come(name) -> None:
    """A new reader could not fill it from old records."""
    assert not reads(with_field(avsc(name), name="later", type="long"), avsc(name))


@every_schema
def test_the_first_field_cannot_change_its_type(name) -> None:
    """Numbers, strings and bytes do not become booleans."""
    old = avsc(name)
    assert not reads(changed(old, old["fields"][0]["name"], type="boolean"), old)


def test_more_incompatible_changes() -> None:
    """Narrowing, losing a union branch, dropping a needed field and renaming are each found."""
    event, item = avsc("user_event"), avsc("item_update")
    assert not reads(changed(event, "user_id", type="int"), event)
    assert not reads(changed(event, "category_id", type="long"), event)
    assert not reads(event, without_field(event, "item_id"))
    assert not reads(changed(item, "item_id", name="id"), item)
    assert not reads(event | {"name": "OtherEvent"}, event)
    symbols = changed(item, "op", type={"type": "enum", "name": "ItemOp", "symbols": ["upsert"]})
    assert not reads(symbols, item)


def test_a_new_action_is_read_as_other() -> None:
    """The enum's default lets an old reader take an action that it does not know."""
    old = avsc("user_event")
    action = next(field for field in old["fields"] if field["name"] == "action")["type"]
    new = changed(old, "action", type=action | {"symbols": [*action["symbols"], "stare"]})
    without_default = {key: value for key, value in action.items() if key != "default"}
    assert reads(new, old)
    assert reads(changed(old, "action", type=action | {"default": "other"}), new)
    assert not reads(changed(old, "action", type=without_default), new)


def test_every_retired_schema_is_still_read() -> None:
    """Today's schemas resolve every retired one, which belongs to a current schema and is known to its codec."""
    for file in RETIRED:
        name = file.name.split(".")[0]
        assert name in schema_names()
        assert reads(avsc(name), json.loads(file.read_text())), file.name


@every_schema
@settings(max_examples=30)
@given(data=st.data())
def test_the_official_library_reads_our_bytes(records, name, data) -> None:
    """Avro's own library decodes what we encode to the same record, and its fingerprint stands in our header."""
    record = data.draw(records(name))
    schema = avro.schema.parse(json.dumps(avsc(name)))
    encoded = codec(name).encode(record)
    body = io.BytesIO(encoded[10:])
    assert avro.io.DatumReader(schema).read(avro.io.BinaryDecoder(body)) == record
    assert body.read() == b""
    assert schema.fingerprint("CRC-64-AVRO") == encoded[2:10]
