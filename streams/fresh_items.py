"""Between the activity lane and the item lane of a worker: whose vectors are to follow, and made with what.

Both lanes' partitions of one number have the same items and the same owner: Faust's assignor places topics of equal
partition counts together. But each has its own life: the activity table may still be restored, or be closed already,
while the item lane works. Then there is nothing to read, and the item lane catches up later.

An item is announced before the batch that moves its snapshot is committed, and stays announced until the table shows
that snapshot and the item lane has seen it: a wake-up between the two is early, never lost. Announcements of a process
end with it; a rebuild's scan finds by itself what they would have said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from domain.activity_row import Snapshots
from schemas.codec import codec
from streams.tables import BatchedTable

__all__ = ["ActivityReader", "FreshItems", "TableActivity", "no_activity"]

#: The snapshots of some items of a partition, by key; None where the table cannot be read now.
ActivityReader = Callable[[int, Sequence[bytes]], Snapshots | None]

#: Fields of a row up to its snapshot.
_SNAPSHOT_FIELDS: Final = 3


class FreshItems:
    """Items with new snapshots, by partition. For use by any threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made_ms: dict[int, dict[bytes, int]] = {}

    @property
    def count(self) -> int:
        """Items whose vectors are to follow."""
        with self._lock:
            return sum(map(len, self._made_ms.values()))

    def announce(self, partition: int, made_ms: Mapping[bytes, int]) -> None:
        """These items of a partition have, or are about to have, snapshots of these times."""
        if made_ms:
            with self._lock:
                self._made_ms.setdefault(partition, {}).update(made_ms)

    def some(self, partition: int, limit: int) -> dict[bytes, int]:
        """Up to `limit` announced items of a partition and their snapshots' times; they stay announced."""
        with self._lock:
            return dict(islice(self._made_ms.get(partition, {}).items(), limit))

    def seen(self, partition: int, made_ms: Mapping[bytes, int]) -> None:
        """These are looked after; one announced again since stays."""
        with self._lock:
            held = self._made_ms.get(partition, {})
            for key, time_ms in made_ms.items():
                if held.get(key) == time_ms:
                    del held[key]


class TableActivity:
    """Reads snapshots from the worker's own item_activity stores, beside the lane that writes them."""

    def __init__(self, table: BatchedTable, restored: Callable[[int], bool], used: Callable[[int], bool]) -> None:
        """`restored` says whether a partition's store is restored, `used` whether it has ever had an event."""
        self._table, self._restored, self._used = table, restored, used
        self._decode: Callable[[bytes], Any] = codec("item_activity_row").leading(_SNAPSHOT_FIELDS)

    def __call__(self, partition: int, keys: Sequence[bytes]) -> Snapshots | None:
        """See ActivityReader."""
        if not self._restored(partition):
            return None
        if not self._used(partition):
            return Snapshots.none(len(keys))
        values = self._table.peek_many(partition, keys)
        if values is None:
            return None
        return Snapshots.of([None if value is None else self._decode(value) for value in values])


def no_activity(partition: int, keys: Sequence[bytes]) -> Snapshots:
    """The ActivityReader of a deployment where nobody does anything."""
    return Snapshots.none(len(keys))
