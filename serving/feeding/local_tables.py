"""Reading the workers' RocksDB tables where they lie on this host, while the workers may be writing them.

A snapshot is the store as it was when it was opened: rows up to at least the changelog offset stored inside, and no
half of a write batch. Reading the changelog from the next offset on then misses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from schemas.deployment import Deployment
from schemas.errors import Corrupt, Unavailable
from schemas.stores_on_disk import CHANGELOG_OFFSET_KEY, WORKER_FILE, StoreFolder, StoreSnapshot, worker_stores
from serving.tables.store import SERVED_TABLES, TablePartition

__all__ = ["CHANGELOG_OFFSET_KEY", "FoundTable", "LocalTable", "find_tables"]

_CHUNK_ROWS: Final = 8192

_log = logging.getLogger(__name__)


class FoundTable(NamedTuple):
    """A table partition on disk and how far it was when it was found."""

    path: Path
    changelog_offset: int
    changelog_id: int | None  #: the head of the id of the changelog that it copies, where its worker knew it


class LocalTable:
    """One table partition on disk.

    Raises Unavailable where it cannot be opened, or not be read to its end: its changelog is read instead, from the
    beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = StoreSnapshot(path)
        try:
            offset, self.changelog_id = self._rows.changelog_offset, self._rows.changelog_id
        except (Corrupt, Unavailable) as error:
            self.close()
            raise Unavailable(f"table left out: {error}") from error
        #: Offset of the last changelog record applied to it; None for a store that never took one.
        self.changelog_offset: int | None = None if offset < 0 else offset

    def chunks(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Keys and values of all rows, the watermark row included, a few thousand at a time."""
        rows = self._rows.all_rows()
        try:
            while chunk := list(islice(rows, _CHUNK_ROWS)):
                keys, values = zip(*chunk, strict=True)
                yield list(keys), list(values)
        except Corrupt as error:
            raise Unavailable(f"table left out: {error}") from error

    def close(self) -> None:
        """Give the files back."""
        self._rows.close()


def find_tables(folder: Path, deployment: Deployment) -> dict[TablePartition, FoundTable]:
    """Newest store of each served partition of the deployment under `<folder>/<worker>/`.

    Other deployments' workers may share the folder; each says in its `worker.json` whose tables it has. A partition
    that moved between workers lies in several folders: the one with the highest changelog offset holds all that the
    others do.
    """
    found: dict[TablePartition, FoundTable] = {}
    for store in _stores(folder, deployment):
        at, table = TablePartition(store.table, store.partition), _looked_at(store.path)
        if table is not None and (at not in found or table.changelog_offset > found[at].changelog_offset):
            found[at] = table
    return found


def _stores(folder: Path, deployment: Deployment) -> Iterator[StoreFolder]:
    ours = deployment.group, deployment.partitions
    for described in sorted(folder.glob(f"*/{WORKER_FILE}")):
        try:
            stores = worker_stores(described.parent)
        except (Corrupt, Unavailable) as error:
            _log.warning("%s", error)
            continue
        for store in stores:
            if (store.group, store.partitions) != ours:
                _log.info("%s is of %s with %d partitions: left out", store.path, store.group, store.partitions)
            elif store.table in SERVED_TABLES and store.partition < deployment.partitions:
                yield store


def _looked_at(path: Path) -> FoundTable | None:
    """What a store says of itself; None where it never took a record or cannot be read."""
    try:
        table = LocalTable(path)
    except Unavailable as error:
        _log.warning("%s", error)
        return None
    table.close()
    return None if table.changelog_offset is None else FoundTable(path, table.changelog_offset, table.changelog_id)
