"""Workers' tables on disk, as their readers find them: names, the stores' own keys, snapshots beside the writer.

Streams writes these files and serving reads them too; neither may import the other, and domain does no input or output.
What both must agree on is a contract like that of the topics, so it stands here. rocksdict is imported only where a
store is opened: whoever needs nothing but records need not have it.

A snapshot opens a store through a folder of links to its files. Opening the folder itself would write into it: whatever
the access type, rocksdict rewrites `rocksdict-config.json` there, not atomically, under a worker that may be starting.
The open files keep the snapshot as it is, whatever the worker deletes afterwards.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from schemas.errors import AifError, Corrupt, Unavailable
from schemas.topics import TABLES

__all__ = [
    "CHANGELOG_ID_KEY",
    "CHANGELOG_OFFSET_KEY",
    "WORKER_FILE",
    "StoreFolder",
    "StoreSnapshot",
    "is_damage",
    "logs_seen",
    "number_of",
    "packed_number",
    "packed_place",
    "rows_of",
    "store_name",
    "worker_description",
    "worker_stores",
]

#: What a worker's folder says of its tables: JSON with at least `group` and `partitions`.
WORKER_FILE: Final = "worker.json"
#: Where a store keeps the offset of the last changelog record it contains, and more: see `packed_place`.
CHANGELOG_OFFSET_KEY: Final = b"\x00changelog-offset"
#: Where it keeps the head of the id of the changelog topic that it copies (KIP-516); absent until a reader knew it.
CHANGELOG_ID_KEY: Final = b"\x00changelog-id"

#: How RocksDB's messages begin where files contradict themselves, in contrast to a disk that is full or gone.
_DAMAGE: Final = ("Corruption", "Invalid argument", "IO error: No such file")
_NUMBER: Final = struct.Struct(">q")
_OPEN_ATTEMPTS: Final = 40
_RETRY_S: Final = 0.02
_DATA_FILES: Final = (".log", ".sst", ".blob")


def packed_number(number: int) -> bytes:
    """The value of one of the stores' own keys: 8 bytes, big-endian int64."""
    return _NUMBER.pack(number)


def number_of(value: bytes) -> int:
    """Inverse of `packed_number`, and the offset of a `packed_place`."""
    return int(_NUMBER.unpack_from(value)[0])


def packed_place(changelog_offset: int, logs_needed_from: int) -> bytes:
    """The value beside a batch: its changelog offset, and RocksDB's oldest log needed then (streams/file_list.py)."""
    return packed_number(changelog_offset) + packed_number(logs_needed_from)


def logs_seen(place: bytes) -> int:
    """The second number of a `packed_place`; 0 in one that an earlier build wrote."""
    return number_of(place[_NUMBER.size :]) if len(place) > _NUMBER.size else 0


def store_name(table: str, partition: int) -> str:
    """Name of a table partition's folder within its worker's."""
    return f"{table}-{partition}.db"


@dataclass(frozen=True)
class StoreFolder:
    """A table partition of one worker on disk; `group` and `partitions` as the worker's folder says."""

    table: str
    partition: int
    path: Path
    group: str
    partitions: int

    @property
    def worker(self) -> Path:
        """The worker's folder."""
        return self.path.parent

    @property
    def disk_bytes(self) -> int:
        """Bytes of its files right now."""
        total = 0
        with os.scandir(self.path) as files:
            for file in files:
                try:
                    total += file.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # the worker has compacted it away
                    continue
        return total


def worker_description(worker: Path) -> dict[str, Any]:
    """What a worker's folder says of its tables. Raises Corrupt where it says nothing, Unavailable where unreadable."""
    described = worker / WORKER_FILE
    try:
        description = json.loads(described.read_text())
        if isinstance(description, dict) and isinstance(description["group"], str):
            return description | {"partitions": int(description["partitions"])}
        why = "no group"
    except OSError as error:
        raise Unavailable(f"{described} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
    raise Corrupt(
        f"{described} is no description of a worker's tables ({why}): move {worker} away, its worker rebuilds the "
        "tables from their changelogs"
    )


def worker_stores(worker: Path) -> list[StoreFolder]:
    """The stores of one worker's folder, ordered by table and partition. Raises as `worker_description`."""
    description = worker_description(worker)
    found = []
    for path in worker.glob("*.db"):
        table, _, partition = path.stem.rpartition("-")
        if table in TABLES and partition.isdigit():
            found.append(StoreFolder(table, int(partition), path, description["group"], description["partitions"]))
    return sorted(found, key=lambda store: (store.table, store.partition))


def is_damage(error: Exception) -> bool:
    """Whether an error of RocksDB says that files contradict themselves."""
    # rocksdict raises bare Exception for everything; RocksDB's own words begin with the kind of failure.
    return str(error).startswith(_DAMAGE)


def rows_of(db: Any, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Keys greater than `after`, with their values, in key order; the stores' own keys included.

    Raises what RocksDB says where it cannot read on: the iterators of `Rdict.keys()` and `.items()` just end there.
    """
    rows = db.iter()
    try:
        if after:
            rows.seek(after)
        else:
            rows.seek_to_first()
        while rows.valid():
            key = rows.key()
            if key > after:
                yield key, rows.value()
            rows.next()
        rows.status()
    finally:
        del rows  # kept by a traceback, it would keep the store open, and locked


class StoreSnapshot:
    """A store as it was when this was opened: a prefix of its changelog. Raises Unavailable where it cannot be.

    Reading raises Corrupt where the files are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._links = tempfile.TemporaryDirectory(prefix="aif-tables-")
        try:
            self._db = self._open()
        except Unavailable:
            self._links.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the files back."""
        self._db.close()
        self._links.cleanup()

    @property
    def changelog_offset(self) -> int:
        """Offset of the last changelog record inside; -1 in an empty store."""
        found = self.get(CHANGELOG_OFFSET_KEY)
        return -1 if found is None else number_of(found)

    @property
    def changelog_id(self) -> int | None:
        """Head of the id of the changelog topic that it copies; None where no reader has noted it."""
        found = self.get(CHANGELOG_ID_KEY)
        return None if found is None else number_of(found)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is no row."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise self._failed(error) from error
        return value

    def all_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all rows in key order, the watermark's included, the store's own keys left out."""
        try:
            for key, value in rows_of(self._db):
                if key not in (CHANGELOG_OFFSET_KEY, CHANGELOG_ID_KEY):
                    yield key, value
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> AifError:
        if is_damage(error):
            return Corrupt(f"{self.path} is damaged: {error}. Its worker rebuilds it from the changelog")
        return Unavailable(f"{self.path} cannot be read: {error}")

    def _open(self) -> Any:
        from rocksdict import AccessType, Options, Rdict

        for attempt in range(_OPEN_ATTEMPTS):
            links = Path(self._links.name) / str(attempt)
            links.mkdir()
            with ExitStack() as files:
                try:
                    if _linked(self.path, links, files):
                        return Rdict(str(links), Options(raw_mode=True), access_type=AccessType.read_only())
                    why = "its files keep changing"
                except Exception as error:  # rocksdict raises bare Exception for all that RocksDB says
                    why = str(error)
            time.sleep(_RETRY_S)
        raise Unavailable(f"{self.path} cannot be opened for reading: {why}; try again")


def _linked(store: Path, links: Path, files: ExitStack) -> bool:
    """Fill `links` with a copy of the store's manifest and links to its data files, which `files` keeps open.

    False where the manifest changed meanwhile. While it does not, no file that it names is deleted, nor any
    write-ahead log with rows that are in none of them.
    """
    current = (store / "CURRENT").read_text()
    manifest = store / current.strip()
    copied = manifest.read_bytes()
    (links / "CURRENT").write_text(current)
    (links / manifest.name).write_bytes(copied)
    for name in os.listdir(store):
        if name.endswith(_DATA_FILES):
            descriptor = os.open(store / name, os.O_RDONLY)
            files.callback(os.close, descriptor)
            # Through the descriptor, so that a file deleted before RocksDB opens it is still there.
            (links / name).symlink_to(f"/dev/fd/{descriptor}")
    return (store / "CURRENT").read_text() == current and manifest.stat().st_size == len(copied)
