"""Reading the workers' RocksDB tables where they lie on this host, while the workers may be writing them.

A read-only handle sees the store as it was when it was opened: rows up to at least the changelog offset stored inside,
and no half of a write batch. Reading the changelog from the next offset on then misses nothing.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from rocksdict import AccessType, Options, Rdict

from schemas.errors import Unavailable
from serving.store import SERVED_TABLES, TablePartition

__all__ = ["CHANGELOG_OFFSET_KEY", "FoundTable", "LocalTable", "find_tables"]

#: Where a worker's table keeps the offset of the last changelog record inside, as 8 big-endian bytes.
CHANGELOG_OFFSET_KEY: Final = b"\x00changelog-offset"

_OFFSET: Final = struct.Struct(">q")
_CHUNK_ROWS: Final = 8192
_OPEN_ATTEMPTS: Final = 5  #: a compaction may remove a file between listing and opening it
_RETRY_S: Final = 0.1

_log = logging.getLogger(__name__)


class FoundTable(NamedTuple):
    """A table partition on disk and how far it was when it was found."""

    path: Path
    changelog_offset: int


class LocalTable:
    """One table partition on disk. Raises Unavailable where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = _open(path)
        raw = self._rows.get(CHANGELOG_OFFSET_KEY)
        #: Offset of the last changelog record applied to it; None for a store that never took one.
        self.changelog_offset: int | None = None if raw is None else _OFFSET.unpack(raw)[0]

    def chunks(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Keys and values of all rows, the watermark row included, a few thousand at a time."""
        rows = ((key, value) for key, value in self._rows.items() if key != CHANGELOG_OFFSET_KEY)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            keys, values = zip(*chunk, strict=True)
            yield list(keys), list(values)

    def close(self) -> None:
        """Give the files back."""
        self._rows.close()


def find_tables(folder: Path, partitions: int) -> dict[TablePartition, FoundTable]:
    """Newest store of each served partition under `<folder>/<worker>/<table>-<partition>.db`.

    A partition that moved between workers lies in several folders: the one with the highest changelog offset holds
    all that the others do.
    """
    found: dict[TablePartition, FoundTable] = {}
    for table in SERVED_TABLES:
        for partition in range(partitions):
            at = TablePartition(table, partition)
            for path in sorted(folder.glob(f"*/{table}-{partition}.db")):
                offset = _offset_of(path)
                if offset is not None and (at not in found or offset > found[at].changelog_offset):
                    found[at] = FoundTable(path, offset)
    return found


def _offset_of(path: Path) -> int | None:
    try:
        table = LocalTable(path)
    except Unavailable as error:
        _log.warning("%s", error)
        return None
    table.close()
    return table.changelog_offset


def _open(path: Path) -> Any:
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            return Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())
        except Exception as error:  # rocksdict raises bare Exception for all that RocksDB says
            if attempt == _OPEN_ATTEMPTS - 1:
                raise Unavailable(
                    f"table {path} cannot be opened for reading: {error}; its changelog is read instead"
                ) from error
            time.sleep(_RETRY_S)
    raise AssertionError("unreachable")
