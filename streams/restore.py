"""Changelog topics, the reading half: a store brought up to its changelog's end, or kept there.

Only committed rows are read, and each fetch becomes one WriteBatch with its offset, so a reader may end at any moment
and go on later. Active partitions restore once, after they are fenced; standby partitions follow for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka import TopicPartition

from schemas.errors import Corrupt
from streams.changelog import translated
from streams.sources import topic_ids
from streams.store import Store
from streams.topic_reader import TopicReader, committed_consumer

__all__ = ["ChangelogReader", "Progress"]

#: Called with (changelog partition, next offset, end).
Progress = Callable[[TopicPartition, int, int], None]

_ROWS: Final = 20_000
_FETCH_BYTES: Final = 8 << 20


class ChangelogReader(TopicReader):
    """Reads some changelog partitions into their stores; an async context manager.

    A store that is the copy of another topic, one that was deleted and made again, is emptied first (see
    `Store.be_copy_of`). One that is ahead of its changelog all the same: Corrupt. Errors of Kafka become Unavailable.
    """

    def __init__(self, bootstrap_servers: str, stores: Mapping[TopicPartition, Store], progress: Progress) -> None:
        self._servers, self._stores, self._progress = bootstrap_servers, stores, progress
        self._consumer = committed_consumer(
            bootstrap_servers, auto_offset_reset="none", max_partition_fetch_bytes=_FETCH_BYTES, fetch_max_wait_ms=100
        )
        super().__init__("connecting to read changelogs", self._consumer)

    async def _begin(self) -> None:
        await self._know_topics()
        await self._seek()

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
                self._see_ends()
                await self._behind(set(self._stores))
                await self._apply_next(set(self._stores))

    async def _know_topics(self) -> None:
        """See to it that every store is a copy of the topic that there is now."""
        ids = await asyncio.to_thread(topic_ids, self._servers, sorted({tp.topic for tp in self._stores}))
        for tp, store in self._stores.items():
            await _to_the_end(store.be_copy_of, ids[tp.topic])

    async def _seek(self) -> None:
        consumer, tps = self._consumer, list(self._stores)
        with translated("finding the ends of changelogs"):
            consumer.assign(tps)
            starts, self._ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        for tp, store in self._stores.items():
            if store.changelog_offset >= self._ends[tp]:
                raise Corrupt(
                    f"{store.folder} holds offset {store.changelog_offset} of {tp.topic}-{tp.partition}, which ends at "
                    f"{self._ends[tp]}: the topic has lost records, or the store is of one that was deleted and made "
                    "again. Move the folder away, start again"
                )
            consumer.seek(tp, max(store.changelog_offset + 1, starts[tp]))

    def _see_ends(self) -> None:
        """Take the ends that came with the last fetch: a follower's move on."""
        for tp in self._stores:
            self._ends[tp] = max(self._ends[tp], self._consumer.last_stable_offset(tp) or 0)

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
        fetched = await self._consumer.getmany(*tps, timeout_ms=200, max_records=_ROWS)
        for tp, records in fetched.items():
            rows = [(record.key, record.value) for record in records]
            await _to_the_end(self._stores[tp].put_many, rows, records[-1].offset)
        return sum(map(len, fetched.values()))


async def _to_the_end(work: Callable[..., None], *args: Any) -> None:
    """Run in a thread; a reader that is cancelled waits for it all the same: the store is closed next."""
    job = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        raise
