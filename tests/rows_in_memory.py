"""The tables of one partition in memory, as folds read them."""

from __future__ import annotations

from collections.abc import Sequence

from streams.item_updates import ItemUpdatesFold

__all__ = ["RowsInMemory"]


class RowsInMemory:
    """A TableReader (streams/fold.py) over dictionaries, one for each table of the item lane."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[bytes, bytes]] = {table: {} for table in ItemUpdatesFold.tables}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See TableReader."""
        return [self.rows[table].get(key) for key in keys]

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """See TableReader."""
        return [key for key in sorted(self.rows[table]) if key > after][:limit]

    def entity_rows(
        self, table: str, after: bytes, limit: int, until: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """See TableReader."""
        keys = [key for key in self.entity_keys(table, after, limit) if until is None or key <= until]
        return [(key, self.rows[table][key]) for key in keys]
