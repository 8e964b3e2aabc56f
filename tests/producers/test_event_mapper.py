from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from producers.datasets import open_dataset
from schemas.ids import hashed_id
from schemas.records import UserEvent


def _events(path: Path, **options: Any) -> list[UserEvent]:
    return [record for kind, record in open_dataset(path, **options).entries() if kind == "user"]  # type: ignore[misc]


def test_columns_become_the_contract(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """Renamed columns, hashed ids with their originals, times and values arrive in the record as declared."""
    (event,) = _events(write_log(mapping, ["7,mug,buy,1000,2.5,Mug"]))
    assert event == {
        "event_id": hashed_id("shop:2:purchase"),
        "user_id": 7,
        "item_id": hashed_id("mug"),
        "event_time_ms": 1000,
        "action": "purchase",
        "category_id": None,
        "value": 2.5,
        "original_user_id": None,
        "original_item_id": "mug",
    }


def test_flags_make_several_events_of_a_row(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """`each` gives one event per rule that holds, in the rules' order, each with its own id and value."""
    mapping["events"]["actions"] = {
        "each": [
            {"action": "impression"},
            {"action": "click", "when": {"column": "did", "equals": "1"}, "value": {"constant": 9}},
        ]
    }
    events = _events(write_log(mapping, ["7,mug,1,1000,2.5,Mug", "7,mug,0,1000,2.5,Mug"]))
    assert [(event["action"], event["value"]) for event in events] == [
        ("impression", 2.5),
        ("click", 9.0),
        ("impression", 2.5),
    ]
    assert len({event["event_id"] for event in events}) == 3


def test_the_first_rule_that_holds_decides(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """`first` tells cancellations by prefix or sign; a row that fits no rule is rejected."""
    rules = [
        {"action": "cancel", "when": {"column": "did", "prefix": "C"}},
        {"action": "cancel", "when": {"column": "price", "below": 0}},
        {"action": "purchase", "when": {"column": "did", "equals": "x"}},
    ]
    mapping["events"]["actions"] = {"first": rules}
    rows = ["7,mug,C1,1000,2,Mug", "7,mug,x,1000,-2,Mug", "7,mug,x,1000,2,Mug", "7,mug,y,1000,2,Mug"]
    dataset = open_dataset(write_log(mapping, rows))
    actions = [record["action"] for kind, record in dataset.entries() if kind == "user"]  # type: ignore[typeddict-item]
    assert actions == ["cancel", "cancel", "purchase"] and dataset.counts.rejected == 1


def test_unknown_values_are_rejected_unless_declared(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """A value outside the map rejects the row; with `otherwise` it becomes that action."""
    rows = ["7,mug,steal,1000,2,Mug"]
    assert _events(write_log(mapping, rows)) == []
    mapping["events"]["actions"]["otherwise"] = "other"
    assert [event["action"] for event in _events(write_log(mapping, rows))] == ["other"]


def test_exact_repeats_are_one_event_only_where_declared(
    mapping: dict[str, Any], write_log: Callable[..., Path]
) -> None:
    """Repeated rows have ids of their own by line, and share one by content; any difference makes it another event."""
    rows = ["7,mug,buy,1000,2,Mug", "7,mug,buy,1000,2,Mug", "7,mug,buy,1000,3,Mug"]
    assert len({event["event_id"] for event in _events(write_log(mapping, rows))}) == 3
    mapping["events"]["event_id"] = "content"
    assert len({event["event_id"] for event in _events(write_log(mapping, rows))}) == 2


def test_rows_dropped_as_events_still_show_their_item(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """`events.drop` leaves out the event alone, `source.drop` the whole row."""
    mapping["events"]["drop"] = [{"column": "user", "empty": True}]
    mapping["source"]["drop"] = [{"column": "item", "in": ["POST"]}]
    dataset = open_dataset(write_log(mapping, [",mug,buy,1000,2,Mug", "7,POST,buy,1000,2,Postage"]))
    assert [(kind, record["item_id"]) for kind, record in dataset.entries()] == [("item", hashed_id("mug"))]
    assert dataset.counts.dropped == 1
