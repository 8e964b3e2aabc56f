"""What a mapping file declares, as frozen values: how the rows of a log become contract records.

mapping_file.py reads and checks the JSON, row_mapper.py and item_source.py turn these values into functions of rows.
A mapping holds no code: a new data set is a new JSON file (docs in mapping_file.py).
"""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from dataclasses import dataclass
from typing import Literal

from schemas.records import Action

__all__ = [
    "ActionRule",
    "ActionTable",
    "Condition",
    "EventSpec",
    "IdSpec",
    "ItemSpec",
    "Mapping",
    "TableSpec",
    "TextSpec",
    "TimeSpec",
    "ValueSpec",
]


@dataclass(frozen=True)
class TableSpec:
    """A file of rows. `columns` names them where the file has no header line; `rows` is an estimate for people."""

    file: str
    format: Literal["csv", "tsv", "jsonl", "parquet"]
    columns: tuple[str, ...] | None
    delimiter: str
    rows: int | None


@dataclass(frozen=True)
class TimeSpec:
    """A column that is a time in `s`, `ms`, `us`, `iso` or a strptime format; `zone` is of times without an offset."""

    column: str
    unit: str
    zone: str


@dataclass(frozen=True)
class Condition:
    """A test of one column's text."""

    column: str
    test: Literal["equals", "in", "empty", "prefix", "below", "above"]
    operand: str | frozenset[str] | float | None


@dataclass(frozen=True)
class IdSpec:
    """An id: a whole number kept as it is, or text hashed with the original kept; or the same `constant` everywhere.

    `split` keeps what stands before the first such separator ("11,12" -> "11").
    """

    column: str | None
    kind: Literal["int", "hash"]
    split: str | None = None
    constant: int | None = None


@dataclass(frozen=True)
class ValueSpec:
    """A number: the product of columns times `scale`, which alone is a constant."""

    columns: tuple[str, ...]
    scale: float = 1.0
    absolute: bool = False


@dataclass(frozen=True)
class TextSpec:
    """Text: a column, or a constant."""

    column: str | None
    constant: str | None = None


@dataclass(frozen=True)
class ActionRule:
    """An action that a row means when its condition holds; no condition always holds."""

    action: Action
    when: Condition | None = None
    value: ValueSpec | None = None


@dataclass(frozen=True)
class ActionTable:
    """Which actions a row means: the `first` rule that holds, or `each`; by a column's value where `column` is set."""

    mode: Literal["first", "each"]
    rules: tuple[ActionRule, ...]
    column: str | None = None
    by_value: Dictionary[str, ActionRule] | None = None


@dataclass(frozen=True)
class EventSpec:
    """User events of a row. `category` is `"items"` where the newest item update's category is to be copied."""

    drop: tuple[Condition, ...]
    user: IdSpec
    item: IdSpec
    category: IdSpec | Literal["items"] | None
    value: ValueSpec | None
    actions: ActionTable
    event_id: Literal["line", "content"]


@dataclass(frozen=True)
class ItemSpec:
    """Item updates: from a second file (`table`), or from the event rows at first sight and when `changes` change."""

    table: TableSpec | None
    time: TimeSpec | None
    drop: tuple[Condition, ...]
    item: IdSpec
    changes: tuple[str, ...]
    title: TextSpec | None
    price: ValueSpec | None
    category: IdSpec | None
    published: TimeSpec | None
    numeric: Dictionary[str, ValueSpec]
    text: tuple[str, ...]
    codes: tuple[str, ...]


@dataclass(frozen=True)
class Mapping:
    """A data set: its rows, and what they mean. `sha256` is of the mapping file: a changed mapping is another one."""

    name: str
    about: str
    licence: str
    bundled: bool
    table: TableSpec
    sorted: bool
    time: TimeSpec
    drop: tuple[Condition, ...]
    events: EventSpec
    items: ItemSpec
    sha256: str
