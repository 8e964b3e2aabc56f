"""What serving keeps of table items: a few small fields of each item that can be shown, and how many there are.

Deleted items are not kept; their N2O rows stay in the slabs for the behaviours that point at them. A row is decoded
when it is applied (about 6 us), because whether it is deleted stands inside and coverage needs the count; what is kept
reads back in under a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.ids import entity_key
from serving.tables.rows_db import RowsDb, Writing

__all__ = ["Item", "ItemStore"]

_DECODE = codec("item_row").decode


class Item(NamedTuple):
    """An item that is not deleted."""

    title: str | None
    original_id: str | None
    category_id: int | None
    price: float | None
    published_ms: int | None
    event_time_ms: int


class ItemStore:
    """Live items by id; any thread may read."""

    def __init__(self, rows: RowsDb) -> None:
        self._rows = rows

    def __len__(self) -> int:
        with self._rows.reading() as txn:
            return txn.count("items")

    def get(self, item_id: int) -> Item | None:
        """The item, or None where it is unknown or deleted."""
        return self.get_many([item_id])[0]

    def get_many(self, item_ids: Iterable[int]) -> list[Item | None]:
        """The items of several ids, of one moment, for less than as many single reads."""
        with self._rows.reading() as txn:
            found = [txn.get("items", entity_key(item_id)) for item_id in item_ids]
        return [None if value is None else Item(*orjson.loads(value)) for value in found]

    def apply(self, txn: Writing, rows: Mapping[bytes, bytes | None]) -> list[str]:
        """Take rows of table items by key; returns the reason of each row that could not be read."""
        live: list[tuple[bytes, bytes]] = []
        gone: list[bytes] = []
        refused: list[str] = []
        for key, value in rows.items():
            try:
                row = None if value is None else _DECODE(value)
            except DecodeError as error:
                refused.append(error.reason)
                continue
            if row is None or row["deleted"]:
                gone.append(key)
            else:
                live.append((key, orjson.dumps([row[name] for name in Item._fields])))
        txn.put("items", live)
        txn.delete("items", gone)
        return refused
