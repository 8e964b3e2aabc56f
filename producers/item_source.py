"""Where item updates come from: the event rows themselves, or a second file.

Either way an item's first update stands before its first event. Memory: one tuple per item (rows), or one record per
item of the file that is not sent yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from domain.text import embedding_bytes
from producers.event_time import time_reader
from producers.mapping import ItemSpec
from producers.row_readers import (
    Columns,
    Row,
    condition_reader,
    id_reader,
    joined_reader,
    number_reader,
    text_reader,
)
from producers.tables import NumberedRow
from schemas.errors import BadRecord
from schemas.ids import hashed_id
from schemas.records import ItemUpdate

__all__ = ["FileItems", "ItemSource", "RowItems", "item_mapper"]

#: From (identity of the sight, event time in Unix ms, row) to a full ItemUpdate.
_ItemMapper = Callable[[str, int, Row], ItemUpdate]


class ItemSource(Protocol):
    """What a data set asks of its items."""

    def before(self, line: int, at_ms: int, row: Row) -> Sequence[ItemUpdate]:
        """Updates that stand before the events of this row, in order."""

    def rest(self, until_ms: int | None, newest_ms: int) -> Iterable[ItemUpdate]:
        """Updates left when the rows are through, up to `until_ms` (exclusive; None has no end)."""


def item_mapper(spec: ItemSpec, dim: int, columns: Columns) -> _ItemMapper:
    """The function that fills an ItemUpdate; it raises BadRecord on a row that breaks the mapping's promise.

    The embedding is of the text columns and of the codes, each as `column=value`; None where both are empty.
    """
    item_of = id_reader(spec.item, columns)
    title_of, price_of = text_reader(spec.title, columns), number_reader(spec.price, columns)
    category_of = id_reader(spec.category, columns) if spec.category else None
    category_at = columns.place(spec.category.column) if spec.category and spec.category.column else None
    published_at = columns.place(spec.published.column) if spec.published else 0
    published_of = time_reader(spec.published) if spec.published else None
    numeric_of = [(name, number_reader(value, columns)) for name, value in spec.numeric.items()]
    text_of = joined_reader(spec.text, columns)
    codes_at = [(name, columns.place(name)) for name in spec.codes]

    def update(identity: str, at_ms: int, row: Row) -> ItemUpdate:
        item, original = item_of(row)
        text = text_of(row) or ""
        codes = tuple(f"{name}={row[at]}" for name, at in codes_at if row[at])
        has_category = category_of is not None and (category_at is None or row[category_at])
        numbers = ((name, read(row)) for name, read in numeric_of)
        return {
            "event_id": hashed_id(identity),
            "item_id": item,
            "event_time_ms": at_ms,
            "op": "upsert",
            "original_id": original,
            "title": title_of(row),
            "category_id": category_of(row)[0] if category_of and has_category else None,
            "price": price_of(row),
            "published_ms": published_of(row[published_at]) if published_of and row[published_at] else None,
            "embedding": embedding_bytes(text, dim, codes) if text or codes else None,
            "numeric": {name: number for name, number in numbers if number is not None},
        }

    return update


class RowItems:
    """Items as event rows show them: an update at first sight and whenever one of `changes` is different."""

    def __init__(self, name: str, spec: ItemSpec, dim: int, columns: Columns) -> None:
        self._name = name
        self._drops = [condition_reader(each, columns) for each in spec.drop]
        self._item_of = id_reader(spec.item, columns)
        self._changes_at = [columns.place(column) for column in spec.changes]
        self._map = item_mapper(spec, dim, columns)
        self._seen: dict[int, tuple[str, ...]] = {}

    def before(self, line: int, at_ms: int, row: Row) -> Sequence[ItemUpdate]:
        """An update where the row shows something new of its item."""
        for drop in self._drops:
            if drop(row):
                return ()
        item = self._item_of(row)[0]
        look = tuple([row[at] for at in self._changes_at])
        if self._seen.get(item) == look:
            return ()
        update = self._map(f"{self._name}:{line}:item", at_ms, row)
        self._seen[item] = look
        return (update,)

    def rest(self, until_ms: int | None, newest_ms: int) -> Iterable[ItemUpdate]:
        """Nothing: what was never seen is not known."""
        return ()


class FileItems:
    """Items of a second file, at their own time or, if that is unknown or later, at their first event."""

    def __init__(
        self,
        name: str,
        spec: ItemSpec,
        dim: int,
        event_columns: Columns,
        event_item: Callable[[Row], tuple[int, str | None]],
        read: Callable[[Columns], Iterable[NumberedRow]],
        on_bad: Callable[[int, BadRecord, Row], None],
    ) -> None:
        columns = Columns()
        drops = [condition_reader(each, columns) for each in spec.drop]
        to_update = item_mapper(spec, dim, columns)
        time_at = columns.place(spec.time.column) if spec.time else 0
        time_of = time_reader(spec.time) if spec.time else None
        self._item_of = event_item
        #: Item -> update that is still to be sent; its time is -1 where the file has none.
        self._waiting: dict[int, ItemUpdate] = {}
        for line, row in read(columns):
            try:
                if any(drop(row) for drop in drops):
                    continue
                at_ms = time_of(row[time_at]) if time_of and row[time_at] else -1
                update = to_update(f"{name}:{line}:item", at_ms, row)
            except BadRecord as problem:
                on_bad(line, problem, row)
                continue
            self._waiting[update["item_id"]] = update
        timed = [(update["event_time_ms"], item) for item, update in self._waiting.items()]
        #: (time, item), latest first, so that the next one is at the end.
        self._due = sorted(((at_ms, item) for at_ms, item in timed if at_ms >= 0), reverse=True)

    def before(self, line: int, at_ms: int, row: Row) -> Sequence[ItemUpdate]:
        """Updates whose time has come, then the row's own item if it is still waiting."""
        item = self._item_of(row)[0]
        found = list(self._until(at_ms + 1))
        early = self._waiting.pop(item, None)
        if early is not None:
            early["event_time_ms"] = at_ms
            found.append(early)
        return found

    def rest(self, until_ms: int | None, newest_ms: int) -> Iterable[ItemUpdate]:
        """Updates after the last event; those without a time, which no event named, come at the newest event's."""
        yield from self._until(until_ms)
        for item in [item for item, update in self._waiting.items() if update["event_time_ms"] < 0]:
            update = self._waiting.pop(item)
            update["event_time_ms"] = newest_ms
            yield update

    def _until(self, end_ms: int | None) -> Iterable[ItemUpdate]:
        while self._due and (end_ms is None or self._due[-1][0] < end_ms):
            update = self._waiting.pop(self._due.pop()[1], None)
            if update is not None:
                yield update
