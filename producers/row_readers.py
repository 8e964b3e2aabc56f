"""Small functions from a row to one value: conditions, ids, numbers, text. A mapping's specs become these once.

Each is a closure over a column's place in the row: the inner loop has no look-up by name (60,000 rows/s need it).
All raise BadRecord, which sends the row to the rejects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from producers.mapping import Condition, IdSpec, TextSpec, ValueSpec
from schemas.errors import BadRecord
from schemas.ids import hashed_id

__all__ = [
    "Columns",
    "IdReader",
    "Row",
    "condition_reader",
    "id_reader",
    "joined_reader",
    "number_reader",
    "text_reader",
]

Row = tuple[str, ...]
#: From a row to (id, original text where the id is its hash).
IdReader = Callable[[Row], tuple[int, str | None]]

_REMEMBERED: Final = 262_144
_INT64: Final = range(-(2**63), 2**63)


class Columns:
    """The columns that a mapping reads of one file, in the order in which they were first asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def place(self, column: str) -> int:
        """Where the column stands in the reduced row."""
        if column not in self.names:
            self.names.append(column)
        return self.names.index(column)


def condition_reader(condition: Condition, columns: Columns) -> Callable[[Row], bool]:
    """Whether the condition holds for a row."""
    at, operand = columns.place(condition.column), condition.operand
    match condition.test:
        case "equals":
            return lambda row: row[at] == operand
        case "in":
            assert isinstance(operand, frozenset)
            return lambda row: row[at] in operand
        case "empty":
            return lambda row: not row[at]
        case "prefix":
            assert isinstance(operand, str)
            return lambda row: row[at].startswith(operand)
    assert isinstance(operand, float)
    bound, column, below = operand, condition.column, condition.test == "below"

    def compare(row: Row) -> bool:
        number = _number(row[at], column)
        return number < bound if below else number > bound

    return compare


def id_reader(spec: IdSpec, columns: Columns) -> IdReader:
    """The id in a row; BadRecord `bad_id` where it is empty or no int64."""
    if spec.column is None:
        assert spec.constant is not None
        constant = (spec.constant, None)
        return lambda row: constant
    at, column, split, hashed = columns.place(spec.column), spec.column, spec.split, spec.kind == "hash"
    known: dict[str, tuple[int, str | None]] = {}

    def read(row: Row) -> tuple[int, str | None]:
        text = row[at]
        found = known.get(text)
        if found is None:
            part = text.split(split, 1)[0] if split else text
            found = _hashed(part, column) if hashed else (_whole(part, column), None)
            if len(known) >= _REMEMBERED:
                known.clear()
            known[text] = found
        return found

    return read


def _hashed(text: str, column: str) -> tuple[int, str]:
    if not text:
        raise BadRecord("bad_id", f"{column} is empty")
    try:
        return hashed_id(text), text
    except UnicodeEncodeError as error:
        raise BadRecord("bad_text", f"{column} is not UTF-8") from error


def _whole(text: str, column: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise BadRecord("bad_id", f"{column}: expected a whole number, found {text!r}") from error
    if number not in _INT64:
        raise BadRecord("bad_id", f"{column}: {text} does not fit 64 bits")
    return number


def number_reader(spec: ValueSpec | None, columns: Columns) -> Callable[[Row], float | None]:
    """The number in a row, None where one of its columns is empty; BadRecord `bad_number` where not finite."""
    if spec is None:
        return lambda row: None
    if not spec.columns:
        return lambda row: spec.scale
    scale, absolute = spec.scale, spec.absolute
    factors = [(columns.place(column), column) for column in spec.columns]

    def read(row: Row) -> float | None:
        product = scale
        for at, column in factors:
            text = row[at]
            if not text:
                return None
            product *= _number(text, column)
        return abs(product) if absolute else product

    return read


def _number(text: str, column: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise BadRecord("bad_number", f"{column}: expected a number, found {text!r}") from error
    if not math.isfinite(number):
        raise BadRecord("bad_number", f"{column}: {text} is not finite")
    return number


def text_reader(spec: TextSpec | None, columns: Columns) -> Callable[[Row], str | None]:
    """The text in a row without outer spaces, None where it is empty; BadRecord `bad_text` where it is not UTF-8."""
    if spec is None or spec.column is None:
        constant = spec.constant if spec else None
        return lambda row: constant
    return joined_reader((spec.column,), columns)


def joined_reader(names: Sequence[str], columns: Columns) -> Callable[[Row], str | None]:
    """Several columns' text with spaces between, None where all are empty."""
    places = [columns.place(name) for name in names]

    def read(row: Row) -> str | None:
        text = " ".join(part for at in places if (part := row[at].strip()))
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecord("bad_text", f"{', '.join(names)} is not UTF-8") from error
        return text or None

    return read
