"""Reads mapping files: JSON in, a checked Mapping out, or one sentence that names the wrong key.

::

    {"name": "my-log", "about": "...", "licence": "...",
     "source": {"file": "log.csv.gz", "format": "csv", "sorted": true, "rows": 100000, "columns": [...]?,
                "time": {"column": "ts", "unit": "s|ms|us|iso|%Y-%m-%d %H:%M:%S", "zone": "Europe/London"},
                "drop": [CONDITION...]},
     "events": {"user": ID, "item": ID, "category": ID | "items", "value": VALUE, "drop": [CONDITION...],
                "event_id": "line" | "content",
                "actions": {"constant": "view"}
                       | {"column": "behavior", "map": {"pv": "view"}, "otherwise": "other"?}
                       | {"first": [{"action": "cancel", "when": CONDITION}, {"action": "purchase"}]}
                       | {"each": [{"action": "impression"}, {"action": "click", "when": CONDITION, "value": VALUE}]}},
     "items": {"from": "events", "changes": ["price"], ...}
            | {"from": "file", "source": {...}, "item": ID, "time": TIME?, ...}
              with "title": TEXT, "price": VALUE, "category": ID, "published": TIME, "numeric": {"name": VALUE},
                   "embedding": {"text": ["column"...], "codes": ["column"...]}, "drop": [CONDITION...]}

    CONDITION = {"column": c, "equals": "x"}; tests: equals "x", in [...], empty true, prefix "x", below n, above n
    ID        = {"column": c, "id": "int" | "hash", "split": ","?} | {"constant": 7}
    VALUE     = "column" | {"product": [columns], "scale": 1, "absolute": true} | {"constant": 1.5}
    TEXT      = "column" | {"constant": "x"}
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from producers.checked_json import Section
from producers.mapping import (
    ActionRule,
    ActionTable,
    Condition,
    EventSpec,
    IdSpec,
    ItemSpec,
    Mapping,
    TableSpec,
    TextSpec,
    TimeSpec,
    ValueSpec,
)
from schemas.errors import BadInput
from schemas.records import ACTION_CODES, Action

__all__ = ["load_mapping", "mapping_names", "parse_mapping"]

_SHIPPED: Final = Path(__file__).parent / "mappings"
_SUFFIXES: Final = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_TESTS: Final = {"equals": str, "in": list, "empty": bool, "prefix": str, "below": float, "above": float}


def mapping_names() -> list[str]:
    """Names of the mappings that ship with the package, sorted."""
    return sorted(file.stem for file in _SHIPPED.glob("*.json"))


def load_mapping(name_or_path: str | Path) -> Mapping:
    """The shipped mapping of this name, or the mapping in this file. Raises BadInput."""
    text = str(name_or_path)
    if text.endswith(".json"):
        try:
            return parse_mapping(Path(text).read_bytes(), text)
        except OSError as error:
            raise BadInput(f"mapping file {text} cannot be read: {error.strerror}") from error
    if text not in mapping_names():
        raise BadInput(
            f"no mapping is named {text!r}: use one of {', '.join(mapping_names())}, or a path to a .json file"
        )
    return parse_mapping((_SHIPPED / f"{text}.json").read_bytes(), text)


def parse_mapping(data: bytes, origin: str) -> Mapping:
    """A mapping from the bytes of its file. Raises BadInput naming `origin` and the key."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise BadInput(f"mapping {origin} is not JSON: {error}") from error
    try:
        return _mapping(Section(content, ""), hashlib.sha256(data).hexdigest())
    except BadInput as error:
        raise BadInput(f"{origin}: {error}") from error


def _mapping(top: Section, sha256: str) -> Mapping:
    source = top.section("source")
    mapping = Mapping(
        name=top.get("name", str),
        about=top.get("about", str, ""),
        licence=top.get("licence", str, ""),
        bundled=top.get("bundled", bool, False),
        sorted=source.get("sorted", bool, False),
        time=_time(source.raw("time"), source.at("time")),
        drop=_conditions(source, "drop"),
        table=_table(source),
        events=_events(top.section("events")),
        items=_items(top.section("items"), top),
        sha256=sha256,
    )
    top.end()
    return mapping


def _table(source: Section) -> TableSpec:
    """Reads the file's keys of a `source` section, whose other keys its caller has read, and ends the section."""
    file = source.get("file", str)
    stem = Path(file.removesuffix(".gz").removesuffix(".xz").removesuffix(".zst"))
    kind = source.get("format", str, _SUFFIXES.get(stem.suffix, ""))
    if kind not in _SUFFIXES.values():
        raise BadInput(f"mapping key {source.at('format')!r} must be csv, tsv, jsonl or parquet, not {kind!r}")
    delimiter = source.get("delimiter", str, "\t" if kind == "tsv" else ",")
    if len(delimiter) != 1:
        raise BadInput(f"mapping key {source.at('delimiter')!r} must be one character, not {delimiter!r}")
    rows = source.get("rows", int, -1)
    columns = source.texts("columns") or None
    source.end()
    kept = cast("Literal['csv', 'tsv', 'jsonl', 'parquet']", kind)
    return TableSpec(file, kept, columns, delimiter, rows if rows >= 0 else None)


def _events(section: Section) -> EventSpec:
    event_id = section.get("event_id", str, "line")
    if event_id not in ("line", "content"):
        raise BadInput(f"mapping key {section.at('event_id')!r} must be 'line' or 'content', not {event_id!r}")
    category: IdSpec | Literal["items"] | None
    category = "items" if section.raw("category") == "items" else section.optional("category", _id)
    spec = EventSpec(
        drop=_conditions(section, "drop"),
        user=_id(section.section("user").content, section.at("user")),
        item=_id(section.section("item").content, section.at("item")),
        category=category,
        value=section.optional("value", _value),
        actions=_actions(section.section("actions")),
        event_id=cast("Literal['line', 'content']", event_id),
    )
    section.end()
    return spec


def _items(section: Section, top: Section) -> ItemSpec:
    origin = section.get("from", str)
    if origin not in ("events", "file"):
        raise BadInput(f"mapping key {section.at('from')!r} must be 'events' or 'file', not {origin!r}")
    from_file = origin == "file"
    embedding = Section(section.raw("embedding") or {}, section.at("embedding"))
    numeric = Section(section.raw("numeric") or {}, section.at("numeric"))
    item_owner = section if from_file else top.section("events")
    spec = ItemSpec(
        table=_table(section.section("source")) if from_file else None,
        time=section.optional("time", _time) if from_file else None,
        drop=_conditions(section, "drop"),
        item=_id(item_owner.section("item").content, item_owner.at("item")),
        changes=() if from_file else section.texts("changes"),
        title=section.optional("title", _text),
        price=section.optional("price", _value),
        category=section.optional("category", _id),
        published=section.optional("published", _time),
        numeric={name: _value(value, numeric.at(name)) for name, value in numeric.content.items()},
        text=embedding.texts("text"),
        codes=embedding.texts("codes"),
    )
    embedding.end()
    section.end()
    return spec


def _time(content: object, path: str) -> TimeSpec:
    section = Section(content, path)
    unit = section.get("unit", str)
    if unit not in ("s", "ms", "us", "iso") and "%" not in unit:
        raise BadInput(f"mapping key {section.at('unit')!r} must be s, ms, us, iso or a strptime format, not {unit!r}")
    zone = section.get("zone", str, "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInput(f"mapping key {section.at('zone')!r}: no time zone is named {zone!r}") from error
    spec = TimeSpec(section.get("column", str), unit, zone)
    section.end()
    return spec


def _conditions(section: Section, key: str) -> tuple[Condition, ...]:
    return tuple(_condition(each, f"{section.at(key)}[{at}]") for at, each in enumerate(section.get(key, list, [])))


def _condition(content: object, path: str) -> Condition:
    section = Section(content, path)
    tests = [test for test in _TESTS if section.has(test)]
    if len(tests) != 1:
        raise BadInput(f"mapping key {path!r} must hold exactly one of {', '.join(_TESTS)}")
    test = tests[0]
    operand: Any = section.get(test, _TESTS[test])
    if test == "in":
        operand = frozenset(section.texts(test))
    elif test == "empty" and operand is not True:
        raise BadInput(f"mapping key {section.at(test)!r} can only be true")
    condition = Condition(section.get("column", str), cast("Any", test), operand)
    section.end()
    return condition


def _id(content: object, path: str) -> IdSpec:
    section = Section(content, path)
    if section.has("constant"):
        spec = IdSpec(None, "int", None, section.get("constant", int))
    else:
        kind = section.get("id", str)
        if kind not in ("int", "hash"):
            raise BadInput(f"mapping key {section.at('id')!r} must be 'int' or 'hash', not {kind!r}")
        split = section.get("split", str, "") or None
        spec = IdSpec(section.get("column", str), cast("Literal['int', 'hash']", kind), split)
    section.end()
    return spec


def _value(content: object, path: str) -> ValueSpec:
    if isinstance(content, str):
        return ValueSpec((content,))
    section = Section(content, path)
    if section.has("constant"):
        spec = ValueSpec((), section.get("constant", float))
    else:
        columns = section.texts("product")
        if not columns:
            raise BadInput(f"mapping key {section.at('product')!r} must list at least one column")
        spec = ValueSpec(columns, section.get("scale", float, 1.0), section.get("absolute", bool, False))
    section.end()
    return spec


def _text(content: object, path: str) -> TextSpec:
    if isinstance(content, str):
        return TextSpec(content)
    section = Section(content, path)
    spec = TextSpec(None, section.get("constant", str))
    section.end()
    return spec


def _actions(section: Section) -> ActionTable:
    if section.has("constant"):
        table = ActionTable("first", (ActionRule(_action(section.get("constant", str), section.at("constant"))),))
    elif section.has("column"):
        values = section.section("map")
        by_value = {text: ActionRule(_action(action, values.at(text))) for text, action in values.content.items()}
        other = section.optional("otherwise", _action)
        table = ActionTable("first", (ActionRule(other),) if other else (), section.get("column", str), by_value)
    else:
        mode: Literal["first", "each"] = "each" if section.has("each") else "first"
        if not section.has(mode):
            raise BadInput(f"mapping key {section.path!r} must hold one of constant, column, first, each")
        rules = [_rule(each, f"{section.at(mode)}[{at}]") for at, each in enumerate(section.get(mode, list))]
        table = ActionTable(mode, tuple(rules))
    section.end()
    return table


def _rule(content: object, path: str) -> ActionRule:
    section = Section(content, path)
    rule = ActionRule(
        _action(section.raw("action"), section.at("action")),
        section.optional("when", _condition),
        section.optional("value", _value),
    )
    section.end()
    return rule


def _action(content: object, path: str) -> Action:
    if content not in ACTION_CODES:
        raise BadInput(f"mapping key {path!r} must be one of {', '.join(ACTION_CODES)}, not {content!r}")
    return content
