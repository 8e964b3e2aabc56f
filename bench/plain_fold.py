"""The work that all rivals share: per key, how many records there were and the offset of the last, in a row of 512 B.

`PlainFold` does it in our lane; `new_row` is the row that every rival writes too, so that only the engines differ.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from streams.fold import Piece, RebuildPlace, SourceRecord, TableReader, Writes
from streams.store import Row

__all__ = ["ROW_BYTES", "TABLE", "PlainFold", "counted", "new_row"]

ROW_BYTES: Final = 512
TABLE: Final = "items"
_HEAD: Final = struct.Struct("<qq")
_PADDING: Final = bytes(ROW_BYTES - _HEAD.size)


def counted(row: bytes | None) -> tuple[int, int]:
    """Records counted in a row and the offset of the last of them; (0, -1) where there is none."""
    return _HEAD.unpack_from(row) if row is not None else (0, -1)


def new_row(count: int, last_offset: int) -> bytes:
    """The row for a count and a last offset."""
    return _HEAD.pack(count, last_offset) + _PADDING


class PlainFold:
    """A fold for `streams.lane`: one row per key and batch, or with `coalesce=False` one row per record."""

    source = "item-updates"
    tables = (TABLE,)

    def __init__(self, coalesce: bool = True) -> None:
        self._coalesce = coalesce

    def fold(self, partition: int, topic_id: int, records: Sequence[SourceRecord], tables: TableReader) -> Writes:
        """See streams/fold.py."""
        keys = list({record.key: None for record in records})
        state = {
            key: counted(row)
            for key, row in zip(keys, tables.get_many(TABLE, keys), strict=True)  # type: ignore[arg-type]
        }
        rows: list[Row] = []
        for record in records:
            count, last = state[record.key]
            if record.offset > last:
                state[record.key] = count + 1, record.offset
                if not self._coalesce:
                    rows.append((record.key, new_row(count + 1, record.offset)))  # type: ignore[arg-type]
        if self._coalesce:
            rows = [(key, new_row(*new)) for key, new in state.items()]  # type: ignore[misc]
        return Writes({TABLE: rows})

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace, limit: int) -> Piece:
        """Nothing: the rows depend on no model."""
        return Piece(None, at, more=False)
