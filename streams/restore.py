"""Changelog topics, the reading half: a store brought up to its changelog's end, or kept there.

Only committed rows are read, and each fetch becomes one WriteBatch with its offset, so a reader may end at any moment
and go on later. Active partitions restore once, after they are fenced; standby partitions follow for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.errors import Corrupt
from streams.changelog import translated
from streams.store import Store

__all__ = ["ChangelogReader", "Progress"]

#: Called with (changelog partition, next offset, end).
Progress = Callable[[TopicPartition, int, int], None]

_ROWS: Final = 20_000
_FETCH_BYTES: Final = 8 << 20


class ChangelogReader:
    """Reads some changelog partitions into their stores; an async context manager.

    A store that is ahead of its changelog belongs to another broker or a re-created topic: Corrupt. Errors of Kafka
    become Unavailable.
    """

    def __init__(self, bootstrap_servers: str, stores: Mapping[TopicPartition, Store], progress: Progress) -> None:
        self._stores, self._progress = stores, progress
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_wait_ms=100,
        )

    async def __aenter__(self) -> ChangelogReader:
        try:
            with translated("connecting to read changelogs"):
                await self._consumer.start()
            await self._seek()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def restore(self) -> int:
        """Read up to the ends that the changelogs have now; the number of rows applied.

        For an active partition call it after `ChangelogWriter.start`: only then are those ends final.
        """
        with translated("restoring tables from their changelogs"):
            applied, unfinished = 0, set(self._stores)
            while unfinished := await self._behind(unfinished):
                applied += await self._apply_next(unfinished)
            return applied

    async def follow(self) -> None:
        """Read for ever."""
        with translated("following changelogs"):
            while True:
                await self._behind(set(self._stores))
                await self._apply_next(set(self._stores))

    async def _seek(self) -> None:
        consumer, tps = self._consumer, list(self._stores)
        with translated("finding the ends of changelogs"):
            consumer.assign(tps)
            starts, self._ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        for tp, store in self._stores.items():
            if store.changelog_offset >= self._ends[tp]:
                raise Corrupt(
                    f"{store.folder} holds offset {store.changelog_offset} of {tp.topic}-{tp.partition}, which ends at "
                    f"{self._ends[tp]}: the topic was re-created or the broker is another one. Move the folder away, "
                    "start again"
                )
            consumer.seek(tp, max(store.changelog_offset + 1, starts[tp]))

    async def _behind(self, tps: set[TopicPartition]) -> set[TopicPartition]:
        """Those of the partitions that are not at their end yet; markers behind the last row count as read."""
        behind = set()
        for tp in tps:
            position = await self._consumer.position(tp)
            self._progress(tp, position, self._ends[tp])
            if position < self._ends[tp]:
                behind.add(tp)
        return behind

    async def _apply_next(self, tps: set[TopicPartition]) -> int:
        loop = asyncio.get_running_loop()
        fetched = await self._consumer.getmany(*tps, timeout_ms=200, max_records=_ROWS)
        for tp, records in fetched.items():
            rows = [(record.key, record.value) for record in records]
            await loop.run_in_executor(None, self._stores[tp].put_many, rows, records[-1].offset)
        return sum(map(len, fetched.values()))
