from __future__ import annotations

from typing import Any

import pytest

from producers.mapping import Condition, IdSpec, TextSpec, ValueSpec
from producers.row_readers import Columns, condition_reader, id_reader, joined_reader, number_reader, text_reader
from schemas.errors import BadRecord
from schemas.ids import hashed_id


@pytest.mark.parametrize(
    ("test", "operand", "holds", "fails"),
    [
        ("equals", "C1", "C1", "C12"),
        ("in", frozenset({"a", "b"}), "b", "ab"),
        ("empty", None, "", "0"),
        ("prefix", "C", "C536379", "536379C"),
        ("below", 0.0, "-1", "0"),
        ("above", 0.5, "0.6", "0.5"),
    ],
)
def test_conditions(test: Any, operand: Any, holds: str, fails: str) -> None:
    """Each test holds for what it names and not for its neighbour."""
    reader = condition_reader(Condition("c", test, operand), Columns())
    assert reader((holds,)) and not reader((fails,))


def test_ids() -> None:
    """Whole numbers stay, text is hashed with the original kept, a split keeps the first part."""
    assert id_reader(IdSpec("c", "int"), Columns())(("-7",)) == (-7, None)
    assert id_reader(IdSpec("c", "hash"), Columns())(("85123A",)) == (hashed_id("85123A"), "85123A")
    assert id_reader(IdSpec("c", "int", ","), Columns())(("11,12",)) == (11, None)
    assert id_reader(IdSpec(None, "int", None, 3), Columns())(()) == (3, None)


@pytest.mark.parametrize(
    ("spec", "text", "reason"),
    [
        (IdSpec("c", "int"), "", "bad_id"),
        (IdSpec("c", "int"), "1.5", "bad_id"),
        (IdSpec("c", "int"), "9223372036854775808", "bad_id"),
        (IdSpec("c", "hash"), "", "bad_id"),
        (IdSpec("c", "hash"), "\udcff", "bad_text"),
    ],
)
def test_bad_ids(spec: IdSpec, text: str, reason: str) -> None:
    """An id that is empty, no int64 or no UTF-8 rejects the row."""
    with pytest.raises(BadRecord) as error:
        id_reader(spec, Columns())((text,))
    assert error.value.reason == reason


def test_numbers() -> None:
    """Products multiply, may drop their sign, and are None where a factor is empty; infinities reject the row."""
    columns = Columns()
    total = number_reader(ValueSpec(("quantity", "price"), 2.0, absolute=True), columns)
    assert total(("-3", "1.5")) == 9.0 and total(("", "1.5")) is None
    assert number_reader(None, columns)(()) is None and number_reader(ValueSpec((), 4.0), columns)(()) == 4.0
    for bad in ("x", "inf", "nan"):
        with pytest.raises(BadRecord) as error:
            total(("1", bad))
        assert error.value.reason == "bad_number"


def test_text() -> None:
    """Text is stripped, joined with spaces and None where empty; bytes that were no UTF-8 reject the row."""
    columns = Columns()
    read = joined_reader(("a", "b"), columns)
    assert read((" x ", "y")) == "x y" and read(("", " ")) is None
    assert text_reader(TextSpec(None, "k"), columns)(()) == "k" and text_reader(None, columns)(()) is None
    with pytest.raises(BadRecord) as error:
        read(("\udcff", ""))
    assert error.value.reason == "bad_text"
