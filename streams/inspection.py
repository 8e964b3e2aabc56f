"""Reading the workers' tables on this machine while the workers write them: which there are, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from domain.partitioner import partition_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.ids import ENTITY_KEY_BYTES, WATERMARK_KEY, entity_key
from schemas.records import Watermark
from schemas.stores_on_disk import (
    CHANGELOG_ID_KEY,
    CHANGELOG_OFFSET_KEY,
    WORKER_FILE,
    StoreFolder,
    StoreSnapshot,
    worker_stores,
)
from schemas.topics import TABLES

__all__ = ["Snapshot", "StoreFolder", "find_row", "holder", "newest_stores", "store_folders"]


def store_folders(data_dir: Path) -> list[StoreFolder]:
    """Every store of every worker of this machine, ordered by table, partition and worker.

    Raises Corrupt or Unavailable where a worker's folder does not say what it is.
    """
    workers = sorted(described.parent for described in (data_dir / "tables").glob(f"*/{WORKER_FILE}"))
    found = [store for worker in workers for store in worker_stores(worker)]
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


class Snapshot(StoreSnapshot):
    """A worker's store as it was when this was opened; see StoreSnapshot for what it raises."""

    def __init__(self, store: StoreFolder) -> None:
        super().__init__(store.path)
        self.store = store

    @property
    def watermark(self) -> Watermark | None:
        """The partition's watermark row, None before the first batch."""
        found = self.get(WATERMARK_KEY)
        return None if found is None else codec("watermark").decode(found)  # type: ignore[return-value]

    @property
    def rows_estimate(self) -> int:
        """Rows, chunks too, without the watermark's and the store's own; RocksDB counts rewritten ones repeatedly."""
        found = self._db.property_int_value("rocksdb.estimate-num-keys")
        others = sum(self.get(key) is not None for key in (WATERMARK_KEY, CHANGELOG_OFFSET_KEY, CHANGELOG_ID_KEY))
        return max(0, int(found or 0) - others)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all entities' rows in key order: ids ascend, negative ones behind the others.

        Chunks behind them are left out; their keys are longer.
        """
        return (row for row in self.all_rows() if len(row[0]) == ENTITY_KEY_BYTES)


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
