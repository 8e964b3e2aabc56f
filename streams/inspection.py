"""Reading the workers' tables on this machine while the workers write them.

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
from typing import Any, Final

from rocksdict import AccessType, Options, Rdict

from domain.partitioner import partition_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.ids import WATERMARK_KEY, entity_key
from schemas.records import Watermark
from schemas.topics import TABLES
from streams.store import CHANGELOG_OFFSET_KEY

__all__ = ["Snapshot", "StoreFolder", "find_row", "holder", "newest_stores", "store_folders"]

_ENTITY_KEY_BYTES: Final = 8
_OPEN_ATTEMPTS: Final = 40
_RETRY_S: Final = 0.02
_DATA_FILES: Final = (".log", ".sst", ".blob")
_OFFSET: Final = struct.Struct(">q")


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


def store_folders(data_dir: Path) -> list[StoreFolder]:
    """Every store of every worker of this machine, ordered by table, partition and worker."""
    found = []
    for described in sorted((data_dir / "tables").glob("*/worker.json")):
        try:
            description = json.loads(described.read_text())
            group, partitions = str(description["group"]), int(description["partitions"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{described} is no description of a worker's tables ({error}); try again") from error
        for path in described.parent.glob("*.db"):
            table, _, partition = path.stem.rpartition("-")
            if table in TABLES and partition.isdigit():
                found.append(StoreFolder(table, int(partition), path, group, partitions))
    return sorted(found, key=lambda store: (store.table, store.partition, store.path))


def holder(worker: Path) -> int | None:
    """Process id of the worker that holds the folder; None where none does.

    Looks it up in /proc/locks instead of trying the lock, which could make a worker that starts at that moment fail.
    Raises Unavailable where the system has no such list.
    """
    try:
        lock = (worker / "lock").stat()
        held = Path("/proc/locks").read_text()
    except FileNotFoundError as error:
        if error.filename == "/proc/locks":
            raise Unavailable("this system has no /proc/locks: whether a worker runs cannot be told") from error
        return None
    device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}"
    for line in held.splitlines():
        _, kind, *rest = line.split()  # "1: FLOCK ADVISORY WRITE 1234 fd:00:5678 0 EOF"; a waiter has "->" as its kind
        if kind == "FLOCK":
            pid, (on, _, inode) = int(rest[2]), rest[3].rpartition(":")
            # On btrfs and overlay file systems a file's device is not the one in the list.
            if inode == str(lock.st_ino) and (on == device or _has_open(pid, worker / "lock")):
                return pid
    return None


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(link.resolve() == path.resolve() for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended, or is another user's
        return False


class Snapshot:
    """A store as it was when this was opened: a prefix of its changelog. Raises Unavailable where it cannot be."""

    def __init__(self, store: StoreFolder) -> None:
        self.store = store
        self._links = tempfile.TemporaryDirectory(prefix="aif-tables-")
        try:
            self._db = self._open()
        except Unavailable:
            self._links.cleanup()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._links.cleanup()

    @property
    def changelog_offset(self) -> int:
        """Offset of the last changelog record inside; -1 in an empty store."""
        found = self._db.get(CHANGELOG_OFFSET_KEY)
        return -1 if found is None else int(_OFFSET.unpack(found)[0])

    @property
    def watermark(self) -> Watermark | None:
        """The partition's watermark row, None before the first batch."""
        found = self._db.get(WATERMARK_KEY)
        return None if found is None else codec("watermark").decode(found)  # type: ignore[return-value]

    @property
    def rows_estimate(self) -> int:
        """Rows, without the watermark's and the offset's; RocksDB's estimate counts rewritten ones more than once."""
        found = self._db.property_int_value("rocksdb.estimate-num-keys")
        return max(0, int(found or 0) - (2 if self.changelog_offset >= 0 else 0))

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is no row."""
        value: bytes | None = self._db.get(key)
        return value

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all entities' rows in key order: ids ascend, negative ones behind the others.

        Chunks behind them are left out; their keys are longer.
        """
        for key, value in self._db.items():
            if len(key) == _ENTITY_KEY_BYTES:
                yield key, value

    def _open(self) -> Any:
        for attempt in range(_OPEN_ATTEMPTS):
            links = Path(self._links.name) / str(attempt)
            links.mkdir()
            with ExitStack() as files:
                try:
                    if _linked(self.store.path, links, files):
                        return Rdict(str(links), Options(raw_mode=True), access_type=AccessType.read_only())
                    why = "its files keep changing"
                except Exception as error:  # rocksdict raises bare Exception for all that RocksDB says
                    why = str(error)
            time.sleep(_RETRY_S)
        raise Unavailable(f"{self.store.path} cannot be opened for reading: {why}; try again")


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


def newest_stores(deployment: Deployment, table: str) -> dict[int, StoreFolder]:
    """The store of each partition that is furthest along its changelog: it holds all that the others of it do.

    Raises BadInput where this machine has none for the table, Unavailable where one cannot be read.
    """
    if table not in TABLES:
        raise BadInput(f"{table!r} is no table; those are {', '.join(TABLES)}")
    stores = store_folders(deployment.data_dir)
    ours = [store for store in stores if store.group == deployment.group and store.table == table]
    if not ours:
        groups = sorted({store.group for store in stores if store.table == table})
        raise BadInput(
            f"no worker of group {deployment.group} has table {table} under {deployment.data_dir / 'tables'}"
            + (
                f"; there are tables of {', '.join(groups)} (--prefix)"
                if groups
                else "; see --data-dir, and `aif worker`"
            )
        )
    newest: dict[int, tuple[int, StoreFolder]] = {}
    for store in ours:
        with Snapshot(store) as snapshot:
            offset = snapshot.changelog_offset
        if store.partition not in newest or offset > newest[store.partition][0]:
            newest[store.partition] = offset, store
    return {partition: store for partition, (_, store) in newest.items()}


def find_row(deployment: Deployment, table: str, entity: int) -> tuple[StoreFolder, bytes | None]:
    """The store that an id belongs to and the value of its row, None where it has none. Raises as `newest_stores`."""
    stores = newest_stores(deployment, table)
    partition = partition_of(entity, next(iter(stores.values())).partitions)
    if partition not in stores:
        raise BadInput(
            f"{table} {entity} is of partition {partition}, which no worker of this machine has: here are "
            f"{', '.join(map(str, sorted(stores)))}; run this where that partition's worker is (`aif lag` says where)"
        )
    with Snapshot(stores[partition]) as snapshot:
        return stores[partition], snapshot.get(entity_key(entity))
