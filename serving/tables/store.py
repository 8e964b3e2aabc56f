"""The state that serving reads, one folder on disk: users, items, progress (LMDB) and a slab for each model version.

Any number of processes open a `Store` of the same folder; exactly one of them, the feeder, also writes it
(store_writer.py). Each read (an item, a user, one gather) sees one moment; reads of different tables may see different
moments, as tables are written by different workers anyway.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from schemas.errors import Corrupt
from schemas.records import Watermark
from serving.tables.items import ItemStore
from serving.tables.readers import Readers
from serving.tables.rows_db import RowsDb
from serving.tables.slab import Slab
from serving.tables.users import UserStore

__all__ = ["CLOCK", "ITEMS", "N2O", "SERVED_TABLES", "USERS", "Store", "TablePartition", "mark_key", "slab_path"]

ITEMS: Final = "items"
N2O: Final = "n2o_a"
USERS: Final = "users"
#: The tables whose changelogs serving follows.
SERVED_TABLES: Final = (ITEMS, N2O, USERS)

_ROWS_FILE: Final = "rows.lmdb"
#: Fact: the newest event time applied.
CLOCK: Final = b"event_clock_ms"


class TablePartition(NamedTuple):
    """One partition of a table."""

    table: str
    partition: int


class Store:
    """Items, users, N2O slabs by version tag, and how far each partition has been applied. Any thread may read.

    A folder must not be opened twice in one process. Raises Corrupt where its files are not whole.
    """

    def __init__(self, folder: Path, readers: Readers, writable: bool = False) -> None:
        self.folder = folder
        self.readers = readers
        self.rows = RowsDb(folder / _ROWS_FILE, writable)
        self.items = ItemStore(self.rows)
        self.users = UserStore(self.rows)
        self.refused: Counter[tuple[str, str]] = Counter()  #: rows that the feeder left out, by (table, reason)
        self._slabs: dict[int, Slab] = {}
        self._lock = threading.Lock()

    @property
    def slabs(self) -> dict[int, Slab]:
        """The slabs that there are, by version tag."""
        tags = self.let_go()
        return {tag: slab for tag in tags if (slab := self.slab(tag))}

    def let_go(self) -> list[int]:
        """Let go of slabs whose files were dropped; the tags of those that are there."""
        there = sorted(int(path.stem, 16) for path in self.folder.glob("*.slab"))
        with self._lock:
            for tag in self._slabs.keys() - set(there):
                del self._slabs[tag]
        return there

    def slab(self, tag: int) -> Slab | None:
        """The slab of a version, None where no row of it has come, or it was dropped before it was opened."""
        with self._lock:
            slab = self._slabs.get(tag)
            if slab is None and (path := slab_path(self.folder, tag)).exists():
                try:
                    slab = self._slabs[tag] = Slab(path, self.readers.line)
                except Corrupt:
                    if path.exists():
                        raise
            return slab

    def coverage(self, tag: int) -> float:
        """Servable rows of a version per live item, 0 to 1; 0 while there is no item."""
        slab, items = self.slab(tag), len(self.items)
        return min(1.0, slab.servable / items) if slab and items else 0.0

    @property
    def watermarks(self) -> dict[TablePartition, Watermark]:
        """The newest watermark of each table partition that has one."""
        return {at: mark for at, (_, mark) in self.marks().items() if mark}

    @property
    def applied(self) -> dict[TablePartition, int]:
        """The next changelog offset to apply of each table partition of which that is known."""
        return {at: offset for at, (offset, _) in self.marks().items() if offset and at.table in SERVED_TABLES}

    def marks(self) -> dict[TablePartition, tuple[int, Watermark | None]]:
        """The next changelog offset to apply, and the newest watermark, of each followed partition that has begun."""
        with self.rows.reading() as txn:
            found = [(key.decode(), orjson.loads(value)) for key, value in txn.items("marks")]
        return {
            TablePartition(name.rpartition("-")[0], int(name.rpartition("-")[2])): (next_offset, mark)
            for name, (next_offset, mark) in found
        }

    def mark(self, at: TablePartition) -> Watermark | None:
        """The newest watermark of a table partition."""
        with self.rows.reading() as txn:
            value = txn.get("marks", mark_key(at))
        return None if value is None else orjson.loads(value)[1]

    @property
    def event_clock_ms(self) -> int | None:
        """Newest event time applied by the user tables, else by the item tables; None while nothing was applied.

        User events come first: catalogue updates may carry times far from those of the events that windows count.
        """
        with self.rows.reading() as txn:
            value = txn.get("facts", CLOCK)
        return None if value is None else int(value)

    @property
    def nbytes(self) -> int:
        """Bytes of rows in use: slabs and the file of users and items. Shared by all processes that map them."""
        return sum(slab.nbytes for slab in self.slabs.values()) + self.rows.nbytes

    def switch(self, folder: Path) -> None:
        """Read another folder from now on. What a request holds of the one before stays readable until it ends."""
        with self._lock:
            self.rows.switch(folder / _ROWS_FILE)
            self.folder = folder
            self._slabs = {}

    def announced(self) -> list[bytes]:
        """Encoded records of topic model-versions, in log order."""
        with self.rows.reading() as txn:
            return [value for _, value in txn.items("versions")]

    def close(self) -> None:
        """Give the files back; no read may be under way. What a slab's reader still holds stays readable."""
        self._slabs.clear()
        self.rows.close()


def mark_key(at: TablePartition) -> bytes:
    """Where the progress of a table partition stands."""
    return f"{at.table}-{at.partition}".encode()


def slab_path(folder: Path, tag: int) -> Path:
    """Where the slab of a version lies."""
    return folder / f"{tag:016x}.slab"
