"""The state that serving reads, one folder on disk: users, items, progress (LMDB), and the three slots of N2O rows.

A slot of the workers holds one row an item. Here its rows lie in a slab for each version that they are of: nearly
always one, and while a slot passes from a version to the next the rest of the one before. So all slabs of a slot
together are the slot, whatever of the roll-out has been read by then, and hold no more rows than there are items.

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

from domain.rollout import SLOTS
from schemas.errors import Corrupt
from schemas.records import Watermark
from serving.tables.items import ItemStore
from serving.tables.readers import Readers
from serving.tables.rows_db import RowsDb
from serving.tables.slab import Slab
from serving.tables.users import UserStore

__all__ = [
    "CLOCK", "ITEMS", "SERVED_TABLES", "USERS", "SlabKey", "Store", "TablePartition", "mark_key", "slab_keys",
    "slab_path",
]  # fmt: skip

ITEMS: Final = "items"
USERS: Final = "users"
#: The tables whose changelogs serving follows.
SERVED_TABLES: Final = (ITEMS, *SLOTS, USERS)

_ROWS_FILE: Final = "rows.lmdb"
#: Fact: the newest event time applied.
CLOCK: Final = b"event_clock_ms"


class TablePartition(NamedTuple):
    """One partition of a table."""

    table: str
    partition: int


class SlabKey(NamedTuple):
    """The rows of one version in one slot: a version that is built again may stand in another slot than before."""

    slot: str
    tag: int  #: of the version


class Store:
    """Items, users, slabs, the log of the roll-out, and how far each partition has been applied. Any thread may read.

    A folder must not be opened twice in one process. Raises Corrupt where its files are not whole.
    """

    def __init__(self, folder: Path, readers: Readers, writable: bool = False) -> None:
        self.folder = folder
        self.readers = readers
        self.rows = RowsDb(folder / _ROWS_FILE, writable)
        self.items = ItemStore(self.rows)
        self.users = UserStore(self.rows)
        self.refused: Counter[tuple[str, str]] = Counter()  #: rows that the feeder left out, by (table, reason)
        self._slabs: dict[SlabKey, tuple[int, Slab]] = {}  #: with the number of its file
        self._lock = threading.Lock()

    @property
    def slabs(self) -> dict[SlabKey, Slab]:
        """The slabs that there are."""
        return {key: slab for key in self.let_go() if (slab := self.slab(key))}

    def let_go(self) -> list[SlabKey]:
        """Let go of slabs whose files were dropped; the keys of those that are there."""
        there = slab_keys(self.folder)
        with self._lock:
            for key in self._slabs.keys() - set(there):
                del self._slabs[key]
        return there

    def slab(self, key: SlabKey) -> Slab | None:
        """Rows of a version in a slot, None where none has come, or the slab was dropped before it was opened."""
        path = slab_path(self.folder, key)
        with self._lock:
            try:
                # A slab may have been dropped and made anew: while the old file is mapped, no other has its number.
                number = path.stat().st_ino
                found = self._slabs.get(key)
                if found is None or found[0] != number:
                    found = self._slabs[key] = number, Slab(path, self.readers.line)
                return found[1]
            except FileNotFoundError:
                return None
            except Corrupt:
                if path.exists():
                    raise
                return None

    def coverage(self, key: SlabKey) -> float:
        """Servable rows of a version in a slot per live item, 0 to 1; 0 while there is no item."""
        slab, items = self.slab(key), len(self.items)
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

    def decisions(self) -> list[bytes]:
        """Encoded records of topic rollout, in log order."""
        with self.rows.reading() as txn:
            return [value for _, value in txn.items("versions")]

    def log_mark(self) -> object:
        """Equal as long as `decisions` are; costs a look at the last one."""
        with self.rows.reading() as txn:
            return self.folder, txn.count("versions"), txn.last("versions")

    def files_mark(self) -> object:
        """Equal as long as no slab came or went; where two do so within a few ms, the second may not show."""
        return self.folder, self.folder.stat().st_mtime_ns

    def close(self) -> None:
        """Give the files back; no read may be under way. What a slab's reader still holds stays readable."""
        self._slabs.clear()
        self.rows.close()


def mark_key(at: TablePartition) -> bytes:
    """Where the progress of a table partition stands."""
    return f"{at.table}-{at.partition}".encode()


def slab_path(folder: Path, key: SlabKey) -> Path:
    """Where a slab lies."""
    return folder / f"{key.slot}-{key.tag:016x}.slab"


def slab_keys(folder: Path) -> list[SlabKey]:
    """The slabs that lie in a folder, in order."""
    found = (path.stem.rpartition("-") for path in folder.glob("*.slab"))
    return sorted(SlabKey(slot, int(tag, 16)) for slot, _, tag in found)
