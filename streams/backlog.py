"""What a partition has fetched and not applied yet: batches in, the next contiguous records out; no I/O.

Bounded by bytes: above the high mark the partition's records are to be held back in the consumer, below the low mark
they flow again.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from streams.batching import FetchedBatch
from streams.cursor import Decision, SourceCursor

__all__ = ["Backlog", "Taken"]

_HIGH_BYTES: Final = 8 << 20
_LOW_BYTES: Final = 2 << 20


class Taken(NamedTuple):
    """Records to apply next.

    `end` is the source offset behind them; with no records and a higher `end` than the cursor's, the log has none in
    between. `lost` says that what follows `end` was lost on the way and has to be fetched again.
    """

    records: list[Any]
    end: int
    lost: bool


class Backlog:
    """Fetched batches of one source partition, oldest first."""

    def __init__(self) -> None:
        self._batches: deque[FetchedBatch] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Batches in hand."""
        return len(self._batches)

    @property
    def full(self) -> bool:
        """Whether fetched records should be held back for now."""
        return self._bytes > _HIGH_BYTES

    @property
    def low(self) -> bool:
        """Whether they should flow again."""
        return self._bytes < _LOW_BYTES

    def add(self, batch: FetchedBatch) -> None:
        """Take a fetched batch into hand."""
        self._batches.append(batch)
        self._bytes += batch.size_bytes

    def clear(self) -> None:
        """Drop everything: it is fetched again, or another worker's."""
        self._batches.clear()
        self._bytes = 0

    def take(self, cursor: SourceCursor, most: int) -> Taken:
        """What follows the cursor, up to about `most` records; the cursor stays where it is.

        Where something was lost on the way the rest is dropped, for it is fetched again too.
        """
        records: list[Any] = []
        ahead = SourceCursor(cursor.expected, cursor.last_seek)
        while self._batches and len(records) < most:
            batch = self._batches.popleft()
            self._bytes -= batch.size_bytes
            decision = ahead.decide(batch.begin, batch.end, batch.fetch)
            if decision is Decision.TAKE:
                records += [record for record in batch.records if record.offset >= ahead.expected]
                ahead.advance(batch.end)
            elif decision is Decision.SEEK:
                self.clear()
                return Taken(records, ahead.expected, lost=True)
        return Taken(records, ahead.expected, lost=False)
