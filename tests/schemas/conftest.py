"""Records of any schema, generated from the schema."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from schemas.codec import codec

Records = Callable[[str], SearchStrategy[dict[str, Any]]]

_PRIMITIVES: dict[str, SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False),
    "bytes": st.binary(max_size=40),
    "string": st.text(max_size=12),
}


def _strategy(schema: Any) -> SearchStrategy[Any]:
    match schema:
        case str():
            return _PRIMITIVES[schema]
        case list():
            return st.one_of(map(_strategy, schema))
        case {"type": "enum", "symbols": symbols}:
            return st.sampled_from(symbols)
        case {"type": "map", "values": values}:
            return st.dictionaries(st.text(max_size=6), _strategy(values), max_size=4)
        case {"type": "record", "fields": fields}:
            return st.fixed_dictionaries({field["name"]: _strategy(field["type"]) for field in fields})
    raise AssertionError(f"no strategy for {schema!r}")


@pytest.fixture(scope="session")
def records() -> Records:
    """`records("user_event")` generates valid user events."""
    return cache(lambda name: _strategy(codec(name).schema))
