from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from domain.text import embedding_bytes
from producers.datasets import open_dataset
from schemas.codec import codec

_ITEMS = "id,made,cat,words\n1,500,9,100\n2,,8,\n3,5000,7,30\n4,100,,x\n5,,6,2\n"


def _flow(path: Path, **options: Any) -> list[tuple[str, int, int]]:
    return [
        (kind, record["item_id"], record["event_time_ms"]) for kind, record in open_dataset(path, **options).entries()
    ]


@pytest.fixture
def with_file(mapping: dict[str, Any], write_log: Callable[..., Path]) -> Callable[[list[str]], Path]:
    """Writes the log beside a file of items."""
    mapping["events"] |= {"item": {"column": "item", "id": "int"}, "category": "items"}
    mapping["items"] = {
        "from": "file",
        "source": {"file": "things.csv"},
        "item": {"column": "id", "id": "int"},
        "time": {"column": "made", "unit": "ms"},
        "published": {"column": "made", "unit": "ms"},
        "category": {"column": "cat", "id": "int"},
        "numeric": {"words": "words"},
        "embedding": {"codes": ["cat"]},
    }
    return lambda rows: write_log(mapping, rows, things=_ITEMS)


def test_first_sight_and_each_change(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """An item is announced before its first event and again, in full, when its price or text differs from the last."""
    rows = [
        "7,mug,buy,1000,2,Mug",
        "7,mug,buy,2000,2,Mug",
        "7,mug,buy,3000,3,Mug",
        "8,cup,see,3000,1,",
        "7,mug,buy,4000,3,Big mug",
        "7,mug,buy,5000,2,Mug",
    ]
    entries = list(open_dataset(write_log(mapping, rows), embedding_dim=32).entries())
    items = [record for kind, record in entries if kind == "item"]
    assert [kind[0] for kind, _ in entries] == list("iuuiuiuiuiu")
    assert [(item["original_id"], item["title"], item["price"], item["event_time_ms"]) for item in items] == [  # type: ignore[typeddict-item]
        ("mug", "Mug", 2.0, 1000),
        ("mug", "Mug", 3.0, 3000),
        ("cup", None, 1.0, 3000),
        ("mug", "Big mug", 3.0, 4000),
        ("mug", "Mug", 2.0, 5000),
    ]
    assert items[0]["embedding"] == embedding_bytes("Mug", 32) and items[2]["embedding"] is None  # type: ignore[typeddict-item]
    assert len({item["event_id"] for item in items}) == 5
    for item in items:
        assert codec("item_update").decode(codec("item_update").encode(item)) == item


def test_dropped_sights_change_nothing(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """A row that `items.drop` names neither announces nor changes an item."""
    mapping["items"]["drop"] = [{"column": "price", "below": 0.005}]
    rows = ["7,mug,buy,1000,0,damaged", "7,mug,buy,2000,2,Mug", "7,mug,buy,3000,0,lost", "7,mug,buy,4000,2,Mug"]
    assert [kind for kind, _, _ in _flow(write_log(mapping, rows))] == ["user", "item", "user", "user", "user"]


def test_file_items_come_at_their_time_or_first_event(with_file: Callable[[list[str]], Path]) -> None:
    """Items wait for their own time; an event that is earlier, or an item without a time, brings its item along."""
    flow = _flow(with_file(["7,2,buy,1000,2,-", "7,3,buy,1500,2,-", "7,1,buy,6000,2,-"]))
    assert flow == [
        ("item", 1, 500),
        ("item", 2, 1000),
        ("user", 2, 1000),
        ("item", 3, 1500),
        ("user", 3, 1500),
        ("user", 1, 6000),
        ("item", 5, 6000),
    ]


def test_file_items_carry_their_fields(with_file: Callable[[list[str]], Path]) -> None:
    """Empty cells are absent, codes make the embedding, events take their item's category, bad rows are rejected."""
    dataset = open_dataset(with_file(["7,1,buy,1000,2,-", "7,2,buy,1000,2,-", "7,99,buy,1000,2,-"]))
    entries = list(dataset.entries())
    items = {record["item_id"]: record for kind, record in entries if kind == "item"}
    assert items[1]["published_ms"] == 500 and items[1]["numeric"] == {"words": 100.0}  # type: ignore[typeddict-item]
    assert items[2]["published_ms"] is None and items[2]["numeric"] == {}  # type: ignore[typeddict-item]
    vector = np.frombuffer(items[1]["embedding"] or b"", "<f4")  # type: ignore[typeddict-item]
    assert vector.shape == (64,) and np.linalg.norm(vector) == pytest.approx(1.0)
    assert [record["category_id"] for kind, record in entries if kind == "user"] == [9, 8, None]
    assert dataset.counts.rejected == 1


def test_a_rejected_row_does_not_use_up_its_item(with_file: Callable[[list[str]], Path]) -> None:
    """When an item's first event is malformed, the next one still brings the item."""
    flow = _flow(with_file(["oops,2,buy,1000,2,-", "7,2,buy,2000,2,-"]))
    assert flow[:3] == [("item", 1, 500), ("item", 2, 2000), ("user", 2, 2000)]
