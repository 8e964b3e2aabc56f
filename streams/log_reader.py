"""Reading topic partitions from one offset to another, never longer than it is worth.

Only committed records are read. A reading ends when its position has passed the end, so gaps, markers and aborted rows
behind the last record end it too; one that stands still is Unavailable. Errors of Kafka become Unavailable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import TopicPartition

from schemas.errors import Unavailable
from streams.changelog import translated
from streams.topic_reader import TopicReader, committed_consumer, lone_consumer

__all__ = ["Bounds", "LogReader"]

#: Nothing read and no step forward for this long: no broker that works is so slow.
_PATIENCE_S: Final = 30.0
#: A transaction that nobody ends is aborted by the broker after 60 s at most; see changelog.py.
_SETTLED_WITHIN_S: Final = 90.0
_POLL_MS: Final = 200
_LOOK_S: Final = 0.05


@dataclass(frozen=True)
class Bounds:
    """Of a topic partition: first offset, end of what no open transaction holds back, end of all that is written."""

    start: int
    committed: int
    written: int


class LogReader(TopicReader):
    """Reads one partition at a time; an async context manager. Raises Unavailable where the broker does not answer."""

    def __init__(
        self, bootstrap_servers: str, *, patience_s: float = _PATIENCE_S, settled_within_s: float = _SETTLED_WITHIN_S
    ) -> None:
        self._patience_s, self._settled_within_s = patience_s, settled_within_s
        # Apart from the one that reads: behind its open fetch, asking for an offset would wait.
        self._written, self._settled = lone_consumer(bootstrap_servers), committed_consumer(bootstrap_servers)
        self._consumer = committed_consumer(
            bootstrap_servers,
            auto_offset_reset="none",
            max_partition_fetch_bytes=8 << 20,
            # Another partition is read only when a fetch at the end of the one before has been answered.
            fetch_max_wait_ms=10,
        )
        super().__init__(f"connecting to {bootstrap_servers}", self._written, self._settled, self._consumer)

    async def bounds(self, tp: TopicPartition) -> Bounds:
        """Where the partition starts and ends now. What is not held back at the call's start is below `committed`."""
        with translated(f"finding the ends of {tp.topic}-{tp.partition}"):
            start = (await self._written.beginning_offsets([tp]))[tp]
            committed = (await self._settled.end_offsets([tp]))[tp]
            written = (await self._written.end_offsets([tp]))[tp]
        return Bounds(start, committed, max(committed, written))

    async def settled(self, tp: TopicPartition, end: int) -> int:
        """Wait until open transactions hold back nothing below `end`; the end of what is committed then."""
        deadline = time.monotonic() + self._settled_within_s
        while (found := await self.bounds(tp)).committed < end:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{tp.topic}-{tp.partition}: a transaction has been open for {self._settled_within_s:.0f} s and "
                    f"holds back offsets {found.committed} to {end - 1}; is a worker stopped (SIGSTOP) in the middle "
                    "of a batch? End it and run this again"
                )
            await asyncio.sleep(_LOOK_S)
        return found.committed

    async def records(self, tp: TopicPartition, start: int, end: int) -> AsyncIterator[Any]:
        """Committed records from `start` to `end` - 1; `end` must not be behind the end of what is committed."""
        consumer = self._consumer
        with translated(f"reading {tp.topic}-{tp.partition}"):
            consumer.assign([tp])
            consumer.seek(tp, start)
            moved, position = time.monotonic(), start
            while position < end:
                batch = (await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=10_000)).get(tp, [])
                for record in batch:
                    if record.offset >= end:
                        return
                    yield record
                before, position = position, await consumer.position(tp)
                if batch or position > before:
                    moved = time.monotonic()
                elif time.monotonic() - moved > self._patience_s:
                    raise Unavailable(
                        f"{tp.topic}-{tp.partition} gives nothing from offset {position} on for "
                        f"{self._patience_s:.0f} s, though it ends at {end}: see whether the broker works, try again"
                    )
