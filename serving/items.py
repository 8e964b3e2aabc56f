"""What serving keeps of table items: a few small fields of each item that can be shown, and how many there are.

Deleted items are not kept; their N2O rows stay in the slabs for the behaviours that point at them. A row is decoded
when it is applied (about 6 us), because whether it is deleted stands inside and coverage needs the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.ids import entity_id

__all__ = ["Item", "ItemStore"]


class Item(NamedTuple):
    """An item that is not deleted."""

    title: str | None
    original_id: str | None
    category_id: int | None
    price: float | None
    published_ms: int | None
    event_time_ms: int


class ItemStore:
    """Live items by id. One thread writes; a single read sees one moment."""

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._decode = codec("item_row").decode

    def __len__(self) -> int:
        return len(self._items)

    def get(self, item_id: int) -> Item | None:
        """The item, or None where it is unknown or deleted."""
        return self._items.get(item_id)

    def apply(self, rows: Mapping[bytes, bytes | None]) -> list[str]:
        """Take rows of table items by key; returns the reason of each row that could not be read."""
        refused = []
        for key, value in rows.items():
            item_id = entity_id(key)
            if value is None:
                self._items.pop(item_id, None)
                continue
            try:
                row = self._decode(value)
            except DecodeError as error:
                refused.append(error.reason)
                continue
            if row["deleted"]:
                self._items.pop(item_id, None)
            else:
                self._items[item_id] = Item(
                    row["title"],
                    row["original_id"],
                    row["category_id"],
                    row["price"],
                    row["published_ms"],
                    row["event_time_ms"],
                )
        return refused
