from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.datasets import open_dataset
from schemas.codec import codec
from schemas.errors import BadInput

_ROWS = [f"{user},i{item},buy,{at},{price},T{item}" for user, item, at, price in
         [(1, 1, 1000, 2), (2, 2, 2000, 2), (1, 1, 3000, 4), (3, 2, 4000, 2)]]  # fmt: skip


def test_selection(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """`from` is inclusive, `to` exclusive, `limit` counts user events, and items precede their events all the same."""
    path = write_log(mapping, _ROWS)

    def times(**options: Any) -> list[tuple[str, int]]:
        return [(kind[0], record["event_time_ms"]) for kind, record in open_dataset(path, **options).entries()]

    assert times(from_ms=2000, to_ms=4000) == [("i", 2000), ("u", 2000), ("i", 3000), ("u", 3000)]
    assert times(limit=1) == [("i", 1000), ("u", 1000)]
    with pytest.raises(BadInput, match="limit"):
        open_dataset(path, limit=0)


def test_disorder_is_an_error_that_names_the_line(mapping: dict[str, Any], write_log: Callable[..., Path]) -> None:
    """A file declared sorted that is not stops with the line; declared unsorted, it is sorted, ties in line order."""
    rows = [_ROWS[1], _ROWS[0], _ROWS[2]]
    with pytest.raises(BadInput, match=r"log\.csv line 3"):
        list(open_dataset(write_log(mapping, rows)).entries())
    mapping["source"]["sorted"] = False
    entries = open_dataset(write_log(mapping, rows)).entries()
    assert [record["event_time_ms"] for kind, record in entries if kind == "user"] == [1000, 2000, 3000]


def test_rejects(mapping: dict[str, Any], write_log: Callable[..., Path], tmp_path: Path) -> None:
    """Malformed rows are counted and written with line and reason, and strict stops at the first of them."""
    rows = [_ROWS[0], "x,i1,buy,1500,2,T", "1,i1,buy,soon,2,T", "1,i1", "1,i1,buy,1600,cheap,T", _ROWS[1]]
    path, rejects = write_log(mapping, rows), tmp_path / "rejects.jsonl"
    dataset = open_dataset(path, rejects=rejects)
    assert sum(kind == "user" for kind, _ in dataset.entries()) == 2
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(entry["line"], entry["reason"]) for entry in found] == [
        (3, "bad_id"), (4, "bad_time"), (5, "wrong_width"), (6, "bad_number"),
    ]  # fmt: skip
    assert dataset.counts.rejected == 4 and dataset.counts.events == 2
    with pytest.raises(BadInput, match="line 3"):
        list(open_dataset(path, strict=True).entries())


def test_the_file_may_be_named_directly(
    mapping: dict[str, Any], write_log: Callable[..., Path], tmp_path: Path
) -> None:
    """--path is a folder or the event file itself; what is missing is named."""
    path = write_log(mapping, _ROWS)
    other = tmp_path / "other.csv"
    (tmp_path / "log.csv").rename(other)
    assert len(list(open_dataset(path, other).entries())) == 7
    with pytest.raises(BadInput, match=r"log\.csv does not exist"):
        open_dataset(path, tmp_path)


@given(times=st.lists(st.integers(0, 30), min_size=1, max_size=40), data=st.data())
def test_every_stream_is_ordered_and_complete(
    times: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any log: all events come once in time order, none before its item, and a second pass is identical."""
    folder = tmp_path_factory.mktemp("log")
    rows = [f"{at % 3},i{data.draw(st.integers(0, 3))},buy,{at},{data.draw(st.integers(1, 2))},T" for at in times]
    (folder / "log.csv").write_text("user,item,did,at,price,title\n" + "\n".join(rows) + "\n")
    (folder / "log.json").write_text(json.dumps({
        "name": "any", "source": {"file": "log.csv", "time": {"column": "at", "unit": "ms"}},
        "events": {"user": {"column": "user", "id": "int"}, "item": {"column": "item", "id": "hash"},
                   "actions": {"constant": "purchase"}},
        "items": {"from": "events", "changes": ["price"], "price": "price"},
    }))  # fmt: skip
    dataset = open_dataset(folder / "log.json")
    entries = list(dataset.entries())
    stamps = [record["event_time_ms"] for _, record in entries]
    assert stamps == sorted(stamps)
    assert sorted(record["event_time_ms"] for kind, record in entries if kind == "user") == sorted(times)
    known: set[int] = set()
    for kind, record in entries:
        known |= {record["item_id"]} if kind == "item" else set()
        assert record["item_id"] in known
    assert list(dataset.entries()) == entries


def test_the_bundled_sample_is_whole() -> None:
    """The sample that ships maps without a reject, fits the contracts, and has prices and titles that change."""
    dataset = open_dataset("online-retail-sample")
    prices: dict[int, list[float | None]] = {}
    titles: dict[int, set[str | None]] = {}
    actions: Counter[str] = Counter()
    encode = {"item": codec("item_update").encode, "user": codec("user_event").encode}
    for at, (kind, record) in enumerate(dataset.entries()):
        if kind == "item":
            prices.setdefault(record["item_id"], []).append(record["price"])  # type: ignore[typeddict-item]
            titles.setdefault(record["item_id"], set()).add(record["title"])  # type: ignore[typeddict-item]
        else:
            actions[record["action"]] += 1  # type: ignore[typeddict-item]
        if at % 100 == 0:
            encode[kind](record)
    assert (dataset.counts.rows, dataset.counts.rejected) == (dataset.estimated_rows, 0)
    assert actions["purchase"] > 60_000 and actions["cancel"] > 1_000
    changes = [sum(one != other for one, other in pairwise(seen)) for seen in prices.values()]
    assert sum(count >= 2 for count in changes) > 300
    assert sum(len(seen) > 1 for seen in titles.values()) > 50
