from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from producers.mapping_file import load_mapping, mapping_names, parse_mapping
from schemas.errors import BadInput


def _set(mapping: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        mapping = mapping[key]
    if value is None:
        del mapping[last]
    else:
        mapping[last] = value


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("source.time.unit", "hours", "source.time.unit"),
        ("source.time.zone", "Europe/Atlantis", "source.time.zone"),
        ("source.file", None, "source.file"),
        ("source.file", "log.xml", "source.format"),
        ("source.sorted", "yes", "source.sorted"),
        ("source.delimiter", "ab", "source.delimiter"),
        ("source.drop", [{"column": "at"}], "source.drop[0]"),
        ("source.drop", [{"column": "at", "equals": "x", "prefix": "y"}], "source.drop[0]"),
        ("source.drop", [{"column": "at", "in": [1]}], "source.drop[0].in"),
        ("events.user", None, "events.user"),
        ("events.user.id", "uuid", "events.user.id"),
        ("events.event_id", "random", "events.event_id"),
        ("events.actions", {}, "events.actions"),
        ("events.actions.map", {"buy": "bought"}, "events.actions.map.buy"),
        ("events.actions", {"first": [{"action": "cancel", "if": 1}]}, "events.actions.first[0].if"),
        ("events.value", {"product": []}, "events.value.product"),
        ("items.from", "nowhere", "items.from"),
        ("items.colour", "red", "items.colour"),
        ("items.numeric", {"stock": 3}, "items.numeric.stock"),
        ("items.embedding", {"text": "title"}, "items.embedding.text"),
        ("extra", 1, "extra"),
    ],
)
def test_a_wrong_key_is_named(mapping: dict[str, Any], path: str, value: Any, named: str) -> None:
    """Every kind of mistake is one sentence with the file and the key's path."""
    _set(mapping, path, value)
    with pytest.raises(BadInput) as error:
        parse_mapping(json.dumps(mapping).encode(), "shop.json")
    assert "shop.json" in str(error.value) and repr(named) in str(error.value)


def test_shipped_mappings_parse() -> None:
    """All mappings of the package are valid and named after their files."""
    assert len(mapping_names()) >= 5
    assert [load_mapping(name).name for name in mapping_names()] == mapping_names()


def test_unknown_names_and_files_say_what_there_is(tmp_path: Path) -> None:
    """A wrong name lists the right ones; a missing or broken file is named."""
    with pytest.raises(BadInput, match="online-retail-sample"):
        load_mapping("online-retail")
    with pytest.raises(BadInput, match=r"gone\.json"):
        load_mapping(tmp_path / "gone.json")
    with pytest.raises(BadInput, match="not JSON"):
        parse_mapping(b"{", "broken.json")


def test_format_comes_from_the_file_name(mapping: dict[str, Any]) -> None:
    """Compression endings are looked through, and a tsv is split at tabs."""
    mapping["source"]["file"] = "log.tsv.zst"
    table = parse_mapping(json.dumps(mapping).encode(), "x").table
    assert (table.format, table.delimiter) == ("tsv", "\t")
