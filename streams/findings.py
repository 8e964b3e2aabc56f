"""What a comparison of one partition found: the differences, and which rows they are of."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from schemas.codec import codec
from schemas.errors import BadRecord
from schemas.ids import entity_id, entity_key
from streams.verification_report import Report

__all__ = ["Findings"]


class Findings:
    """Differences of the tables of one partition; `report` counts them, `differing` has the keys of rows by table."""

    def __init__(self, report: Report, partition: int, tables: Iterable[str]) -> None:
        self.report, self._partition = report, partition
        self.differing: dict[str, set[bytes]] = {table: set() for table in tables}

    def differs(self, table: str, entity: int, what: str) -> None:
        """The row of an entity is wrong."""
        self.differs_at(table, entity_key(entity), str(entity), what)

    def differs_at(self, table: str, key: bytes, shown: str, what: str) -> None:
        """The row under a key is wrong."""
        self.report.differs(f"{table}-{self._partition} {shown}", what)
        self.differing[table].add(key)

    def decoded(
        self, table: str, schema: str, rows: Mapping[bytes, bytes], place: Callable[[bytes], Any] = entity_id
    ) -> dict[Any, Any]:
        """Rows by what `place` makes of their keys; those that are no rows of the table differ."""
        decode, found = codec(schema).decode, {}
        for key, value in rows.items():
            try:
                found[place(key)] = decode(value)
            except (BadRecord, ValueError, struct.error) as error:
                self.differs_at(table, key, f"key {key.hex()}", f"is no row of the table: {error}")
        return found
