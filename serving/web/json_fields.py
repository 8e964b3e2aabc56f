"""Checked reading of JSON values: what a field may be, and a sentence for everything that it may not be."""

from __future__ import annotations

import math
from typing import Any, Final

from schemas.errors import BadInput
from schemas.ids import hashed_id

__all__ = ["EntityRef", "boolean", "entity_of", "integer", "kind_of", "known_fields", "number"]

#: An id as a request writes it: an int64, or a string that is hashed as at the producers' edge.
EntityRef = int | str

_INT64: Final = range(-(2**63), 2**63)
_KINDS: Final = {
    bool: "true or false",
    int: "a number",
    float: "a number with a fraction",
    str: "a string",
    list: "an array",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    return _KINDS.get(type(value), "an object")


def known_fields(fields: Any, allowed: frozenset[str], where: str) -> dict[str, Any]:
    """An object with no other fields than these. Raises BadInput: a misspelt name is never ignored."""
    if not isinstance(fields, dict):
        raise BadInput(f"{where} must be a JSON object, not {kind_of(fields)}")
    if unknown := sorted(fields.keys() - allowed):
        raise BadInput(f"unknown field {unknown[0]!r} in {where}; fields are {', '.join(sorted(allowed))}")
    return fields


def entity_of(ref: Any, field: str) -> int:
    """The int64 id that a reference means. Raises BadInput naming the field."""
    if isinstance(ref, str):
        if not ref:
            raise BadInput(f"{field} must not be an empty string")
        return hashed_id(ref)
    # JSON's true and false are integers to Python.
    if not isinstance(ref, int) or isinstance(ref, bool):
        raise BadInput(f"{field} must be an integer or a string, not {kind_of(ref)}")
    if ref not in _INT64:
        raise BadInput(f"{field} must be a 64-bit signed integer, {ref} is not")
    return ref


def integer(fields: dict[str, Any], name: str, allowed: range) -> int | None:
    """An optional integer field; None where it is absent or null. Raises BadInput."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadInput(f"{name} must be an integer, not {kind_of(value)}")
    if value not in allowed:
        raise BadInput(f"{name} must be {allowed.start} to {allowed.stop - 1}, not {value}")
    return value


def number(fields: dict[str, Any], name: str) -> float | None:
    """An optional number of at least 0; None where it is absent or null. Raises BadInput."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadInput(f"{name} must be a number, not {kind_of(value)}")
    if not (value >= 0 and math.isfinite(value)):
        raise BadInput(f"{name} must be a number of at least 0, not {value}")
    return float(value)


def boolean(fields: dict[str, Any], name: str) -> bool:
    """An optional true or false; false where it is absent or null. Raises BadInput."""
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadInput(f"{name} must be true or false, not {kind_of(value)}")
    return value
