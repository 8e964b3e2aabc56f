"""Faust tables whose rows are read and written by the batch.

To Faust a `BatchedTable` is a table: its assignor places the changelog partitions with the source's, its commands
list it. Its data is not Faust's: rows live in one `Store` per owned partition, written by the lane (partition.py), and
Faust's recovery service, whose completion test does not survive transaction markers and whose path costs time
for every row, is replaced by restore.py.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import faust
from faust.tables import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode import Service

from schemas.errors import Corrupt
from schemas.stores_on_disk import store_name
from streams.store import Row, Store

__all__ = ["BatchedTable", "LaneTableManager"]


class BatchedTable(faust.Table):  # type: ignore[misc]
    """A table partitioned like its source topic, `folder`/<name>-<partition>.db on disk."""

    folder: Path

    def place(self, folder: Path) -> BatchedTable:
        """Say where the stores live; before the worker starts."""
        self.folder = folder
        self.stores: dict[int, Store] = {}
        self._closing = threading.Lock()
        return self

    def open_partition(self, partition: int) -> Store:
        """Open the store of a partition that this worker owns now."""
        if partition not in self.stores:
            self.stores[partition] = Store(self.folder / store_name(self.name, partition))
        return self.stores[partition]

    def close_partition(self, partition: int) -> None:
        """Close the store of a partition; nothing re-opens it but `open_partition`."""
        with self._closing:
            store = self.stores.pop(partition, None)
            if store is not None:
                store.close()

    def get_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of some keys of an owned partition."""
        return self._owned(partition).get_many(keys)

    def peek_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """`get_many` for another lane than the table's, from any thread; None where the store is closed.

        For stores that are restored: a reader of changelogs may replace one.
        """
        with self._closing:
            store = self.stores.get(partition)
            return None if store is None else store.get_many(keys)

    def put_many(self, partition: int, rows: Sequence[Row], changelog_offset: int) -> None:
        """Write rows that the changelog has committed, and the offset of the last of them."""
        self._owned(partition).put_many(rows, changelog_offset)

    def _owned(self, partition: int) -> Store:
        store = self.stores.get(partition)
        if store is None:
            raise Corrupt(f"table {self.name} partition {partition} is not owned by this worker")
        return store

    async def on_start(self) -> None:
        """Nothing to start: stores are opened on assignment."""

    def persisted_offset(self, tp: Any) -> int | None:
        """None: recovery is not Faust's."""
        return None

    def on_key_set(self, key: Any, value: Any) -> NoReturn:
        """Refuse Faust's per-key writes: they would bypass the transaction."""
        raise Corrupt(f"table {self.name} is written in batches, not by key")

    on_key_del = on_key_get = on_key_set


class _LaneRecovery(Recovery):  # type: ignore[misc]
    """Resumes source partitions after a rebalance and recovers nothing: restore.py does."""

    @Service.task  # type: ignore[untyped-decorator]
    async def _restart_recovery(self) -> None:
        while not self.should_stop:
            if await self.wait_for_stopped(self.signal_recovery_start):
                return
            self.signal_recovery_start.clear()
            try:
                await self._resume_streams(generation_id=self._generation_id)
            except (RebalanceAgain, ServiceStopped):
                continue


class LaneTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager without Faust's recovery."""

    @property
    def recovery(self) -> Recovery:
        """The recovery service."""
        found: Recovery | None = self._recovery  # type: ignore[has-type]
        if found is None:
            found = self._recovery = _LaneRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return found
