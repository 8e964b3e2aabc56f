"""The typed dictionaries say what the schemas say."""

from __future__ import annotations

import types
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from schemas import records
from schemas.codec import codec, schema_names
from schemas.records import ACTION_CODES, ACTIONS

_PYTHON = {"null": type(None), "boolean": bool, "int": int, "long": int, "double": float, "bytes": bytes, "string": str}


def python_type(schema: Any) -> Any:
    """The annotation of a field of this Avro type."""
    match schema:
        case str():
            return _PYTHON[schema]
        case list():
            return frozenset(map(python_type, schema))
        case {"type": "enum", "symbols": symbols}:
            return Literal[tuple(symbols)]
        case {"type": "map", "values": values}:
            return dict[str, python_type(values)]
    raise AssertionError(f"no annotation for {schema!r}")


def unordered(annotation: Any) -> Any:
    """A union as the set of its members."""
    return frozenset(get_args(annotation)) if get_origin(annotation) is types.UnionType else annotation


def typed_dictionaries() -> dict[str, type]:
    """All typed dictionaries of schemas/records.py by name."""
    found = [value for value in vars(records).values() if is_typeddict(value)]
    return {each.__name__: each for each in found}


@pytest.mark.parametrize("name", schema_names())
def test_fields_and_nullability_equal_the_schema(name) -> None:
    """Same fields in the same order, same types, null where the schema has null."""
    schema = codec(name).schema
    hints = get_type_hints(typed_dictionaries()[schema["name"].rpartition(".")[2]])
    expected = {field["name"]: python_type(field["type"]) for field in schema["fields"]}
    assert list(hints) == list(expected)
    assert {field: unordered(hint) for field, hint in hints.items()} == expected


def test_every_record_has_a_schema() -> None:
    """No typed dictionary without a schema, and all are exported."""
    named = {codec(name).schema["name"].rpartition(".")[2] for name in schema_names()}
    assert set(typed_dictionaries()) == named
    assert named <= set(records.__all__)


def test_action_codes_are_positions() -> None:
    """Codes are dense, fit a byte, and equal the schema's order, which packed rows rely on."""
    action = next(field["type"] for field in codec("user_event").schema["fields"] if field["name"] == "action")
    assert list(ACTIONS) == action["symbols"]
    assert {code: symbol for symbol, code in ACTION_CODES.items()} == dict(enumerate(action["symbols"]))
    assert len(ACTIONS) < 256


def test_codes_never_change() -> None:
    """The code of each action that was ever written to a row."""
    assert ACTIONS[:14] == (
        "impression", "view", "click", "like", "follow", "comment", "share",
        "favourite", "cart", "purchase", "cancel", "long_view", "dislike", "other",
    )  # fmt: skip
