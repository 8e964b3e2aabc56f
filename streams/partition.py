"""One source partition's life in a worker: take over, restore, apply batches, let go.

The write protocol of a batch:

1. fold: the rows that change, computed from the batch and the tables as they are;
2. one Kafka transaction: changelog rows of all tables, a watermark row last in each, dead letters, records for other
   source topics, source offset;
3. one RocksDB WriteBatch per table, with the changelog offset inside.

A crash between any two of these leaves the changelog as the truth: the next owner restores from it and goes on from
the watermark row's offset. Every error ends the process (lane.py): nothing is retried halfway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faust.types import TP

from schemas.codec import codec
from schemas.errors import Corrupt, Unavailable
from schemas.ids import WATERMARK_KEY
from schemas.records import Watermark
from streams import metrics
from streams.backlog import Backlog
from streams.batching import FetchedBatch
from streams.changelog import Destination
from streams.cursor import SourceCursor, within_log
from streams.fold import REBUILD_START, Piece, Writes
from streams.store import Row

if TYPE_CHECKING:
    from streams.lane import Lane

__all__ = ["LanePartition"]

logger = logging.getLogger(__name__)

#: Without progress for this long, records waiting, the process ends: far beyond any batch, rebalance or broker pause.
STALLED_S: Final = 60.0
#: Between two looks for something to rebuild where the last found nothing and nobody said that there is.
_REBUILD_EVERY_S: Final = 1.0
#: Records that one transaction takes at most; batches grow towards it under load.
_BATCH_RECORDS: Final = 5_000


class LanePartition:
    """Owner of one source partition and of the same partition of the lane's tables."""

    def __init__(self, lane: Lane, partition: int) -> None:
        self.lane, self.partition = lane, partition
        self.tp = TP(lane.topic, partition)
        self.cursor: SourceCursor | None = None
        self.watermark: Watermark | None = None
        self.last_batch_at: float | None = None
        self._moved_at = time.monotonic()
        self.restored_rows = 0
        #: Rows between a store and the end of its changelog, by changelog partition.
        self.rows_to_restore: dict[TopicPartition, int] = {}
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._in_hand = asyncio.Lock()
        self._suspended = False
        self._topic_id = 0
        self._rebuild_at = REBUILD_START
        self._rebuild_after = 0.0  #: monotonic
        self._wakes = 0
        self._writer = lane.rim.writer(TopicPartition(*self.tp))
        self._task: asyncio.Task[None] | None = None

    # -- ownership -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the partition over and apply batches from then on."""
        self.lane.consumer.held.add(self.tp)
        self._task = asyncio.create_task(self._run(), name=f"lane {self.tp.topic}-{self.partition}")

    @property
    def ready(self) -> bool:
        """Whether the tables are restored and batches flow."""
        return self.cursor is not None and not self._suspended

    async def suspend(self) -> None:
        """Finish the batch in hand and apply no other until `resume`: a rebalance has begun."""
        self._suspended = True
        async with self._in_hand:
            self._backlog.clear()

    async def resume(self) -> None:
        """Go on: the rebalance left the partition here."""
        self._suspended = False
        self._moved_at = time.monotonic()
        if self.cursor is not None:
            await self._rewind()
            self._release()
            self._wake.set()

    async def close(self) -> None:
        """Let go: the partition is another worker's, or the process ends."""
        await self.suspend()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.lane.consumer.held.discard(self.tp)
        await self._writer.stop()
        for table in self.lane.tables.values():
            await self.lane.in_executor(table.close_partition, self.partition)

    async def _run(self) -> None:
        try:
            await self._take_over()
            while True:
                self._wake.clear()  # before looking: what is offered while we look must not be slept over
                applied = await self._apply_next()
                # One piece of rebuild after each batch: a loaded partition must not starve it, nor the reverse.
                rebuilt = await self._rebuild_next()
                if not applied and not rebuilt:
                    await self._idle()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.lane.fail(error, self.tp)

    async def _idle(self) -> None:
        """Wait for something to do: to be woken, or for the rate that rebuilds may go on at."""
        try:
            async with asyncio.timeout(self.lane.pace.wait_s or None):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _take_over(self) -> None:
        started = time.monotonic()
        await self._writer.start()
        # Once nobody else can write: what the last owner knew, and promised by what it wrote, was decided before.
        await self.lane.before_taking_over()
        stores = {}
        for table in self.lane.tables.values():
            store = await self.lane.in_executor(table.open_partition, self.partition)
            stores[TopicPartition(self.lane.deployment.changelog(table.name), self.partition)] = store
        async with self.lane.rim.reader(stores, self._restoring) as reader:
            self.restored_rows = await reader.restore()
        self.watermark = next(iter(stores.values())).watermark
        expected = await self._first_offset()
        self.cursor = SourceCursor(expected)
        logger.info(
            "%s-%d ready: %d rows restored in %.1f s, next offset %d",
            self.tp.topic, self.partition, self.restored_rows, time.monotonic() - started, expected,
        )  # fmt: skip
        if not self._suspended:
            await self._rewind()
            self._release()
        self.lane.on_progress(self.partition)

    def _restoring(self, tp: TopicPartition, position: int, end: int) -> None:
        left = max(0, end - position)
        if left != self.rows_to_restore.get(tp):
            self._moved_at = time.monotonic()
        self.rows_to_restore[tp] = left

    async def _first_offset(self) -> int:
        """Where the tables stand in the source: the watermark's offset, or the log's start for new tables."""
        self._topic_id = await self.lane.rim.topic_id(self.lane.topic)
        start = int((await self.lane.consumer.earliest_offsets(self.tp))[self.tp])
        mark, name = self.watermark, f"{self.tp.topic}-{self.partition}"
        if mark is None:
            return start
        if mark["source_topic_id"] != self._topic_id:
            if not self.lane.reset_recreated:
                raise Corrupt(
                    f"{name} is not the topic that its tables were made from: it was deleted and made again. With "
                    "--reset-recreated the tables are emptied and made anew from it"
                )
            await self._reset(mark, start)
            return start
        end = int((await self.lane.consumer.highwaters(self.tp))[self.tp])
        return within_log(name, mark["next_source_offset"], start, end)

    async def _reset(self, mark: Watermark, start: int) -> None:
        """Delete every row of the lane's tables: the source is another log, and a recompute of it has none of them.

        The watermark keeps the old topic's id until the last row is gone, so that a crash in between begins again here.
        """
        logger.warning("%s-%d: another topic than before, emptying its tables", self.tp.topic, self.partition)
        topic_id, self._topic_id = self._topic_id, mark["source_topic_id"]
        for name, table in self.lane.tables.items():
            store = table.stores[self.partition]
            while keys := await self.lane.in_executor(store.row_keys, _BATCH_RECORDS):
                await self._commit(Writes({name: [(key, None) for key in keys]}), mark["next_source_offset"], 0)
        self._topic_id, self.watermark = topic_id, None
        await self._commit(Writes({}), start, 0)

    # -- batches in ----------------------------------------------------------------------------------------------

    def offer(self, batch: FetchedBatch) -> None:
        """Take a fetched batch into hand; called by the agent."""
        if self.cursor is None or self._suspended:
            return  # fetched again after the rewind that follows
        self._backlog.add(batch)
        if self._backlog.full:
            self.lane.consumer.held.add(self.tp)
        self._wake.set()

    def wake(self) -> None:
        """There may be something to rebuild."""
        self._wakes += 1
        self._rebuild_after = 0.0
        self._wake.set()

    async def check_progress(self) -> None:
        """Fetch again what was handed out and never arrived; called every second by the lane."""
        if not self.ready or self._backlog or self._in_hand.locked():
            return
        assert self.cursor is not None
        before = self.cursor.expected
        consumed_to = await self.lane.consumer.consumed_to(self.tp)
        await asyncio.sleep(0.5)  # what is on its way through Faust's queues arrives within milliseconds
        if not self.ready or self._backlog or self._in_hand.locked():
            return
        if self.cursor.expected == before < (consumed_to or 0):
            logger.warning(
                "%s-%d: offsets %d to %d were lost on the way, fetching again", *self.tp, before, consumed_to
            )
            await self._rewind()

    async def pass_over(self, begin: int, end: int) -> None:
        """Take note that the source has no records from `begin` to `end` - 1, where all before is applied."""
        async with self._in_hand:
            if self.cursor and not self._suspended and not self._backlog and self.cursor.expected == begin < end:
                await self._commit(Writes({}), end, 0)
                self.cursor.advance(end)

    async def check_stall(self) -> None:
        """Raise Unavailable where records wait and none has been applied for long; called now and then by the lane.

        Nothing known leads here. A restart cures what is not known.
        """
        standing_s = time.monotonic() - self._moved_at
        if standing_s < STALLED_S or self._suspended:
            return
        doing = "restoring"
        if self.cursor is not None:
            try:
                end = (await self.lane.consumer.highwaters(self.tp))[self.tp]
                position = await self.lane.consumer.position(self.tp) or 0
            except KafkaError:
                return  # no broker, or a rebalance: not a stall of ours
            if position >= end and not self._backlog:
                self._moved_at = time.monotonic()
                return
            doing = f"at offset {self.cursor.expected} of {end}"
        raise Unavailable(
            f"{self.tp.topic}-{self.partition} has stood still for {standing_s:.0f} s, {doing}: {len(self._backlog)} "
            f"batches in hand, {'held' if self.tp in self.lane.consumer.held else 'not held'}"
        )

    async def _next_records(self) -> tuple[list[Any], int] | None:
        """Records to apply next and the offset behind them; None when there are none in hand."""
        assert self.cursor is not None
        records, end, lost = self._backlog.take(self.cursor, _BATCH_RECORDS)
        found = end > self.cursor.expected
        if lost and not found:  # with records in hand, what follows them is fetched again once they are applied
            await self._rewind()
        if self._backlog.low:
            self._release()
        return (records, end) if found else None

    def _release(self) -> None:
        if not self._suspended:
            self.lane.consumer.held.discard(self.tp)

    async def _rewind(self) -> None:
        assert self.cursor is not None
        self._backlog.clear()
        self.cursor.sought(await self.lane.consumer.rewind(self.tp, self.cursor.expected))

    # -- batches out ---------------------------------------------------------------------------------------------

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """TableReader for the fold."""
        return self.lane.tables[table].get_many(self.partition, keys)

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """TableReader for the fold."""
        return self.lane.tables[table].stores[self.partition].entity_keys(after, limit)

    def entity_rows(
        self, table: str, after: bytes, limit: int, until: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """TableReader for the fold."""
        return self.lane.tables[table].stores[self.partition].entity_rows(after, limit, until)

    async def _apply_next(self) -> bool:
        async with self._in_hand:
            taken = None if self._suspended else await self._next_records()
            if taken is None:
                return False
            assert self.cursor is not None
            records, end = taken
            count = len(records)
            oldest_ms = records[0].timestamp if records else 0  # LogAppendTime: it ascends
            writes = await self.lane.in_executor(self._fold, records)
            self.lane.failpoint.reach("folded")
            await self._commit(writes, end, oldest_ms)
            self.cursor.advance(end)
            self.last_batch_at = self._moved_at = time.monotonic()
            self.lane.pace.updated()
            self.lane.on_progress(self.partition)
            metrics.batch_applied(self.lane.fold.source, count, writes)
            return True

    def _fold(self, records: list[Any]) -> Writes:
        writes = self.lane.fold.fold(self.partition, self._topic_id, records, self)
        records.clear()  # freed here, beside the loop
        return writes

    async def _rebuild_next(self) -> bool:
        # A look at the tables is a tenth of a small batch's time: after one that found nothing, the next waits.
        pace = self.lane.pace
        if time.monotonic() < self._rebuild_after or pace.wait_s:
            return False
        async with self._in_hand:
            if self._suspended or not pace.begin(self._wake.set):
                return False
            wakes = self._wakes
            try:
                piece = await self._piece(pace.limit)
            finally:
                pace.end()
            if piece.writes is not None:
                assert self.cursor is not None
                await self._commit(piece.writes, self.cursor.expected, 0)
                metrics.rebuilt(self.lane.fold.source, piece.writes)
            self._rebuild_at = piece.at
            # Woken during the look, it may have looked too early.
            found_all = not piece.more and wakes == self._wakes
            self._rebuild_after = time.monotonic() + _REBUILD_EVERY_S if found_all else 0.0
            return bool(piece.more)

    async def _piece(self, limit: int) -> Piece:
        began = time.monotonic()
        rebuild, at = self.lane.fold.rebuild, self._rebuild_at
        piece: Piece = await self.lane.in_executor(rebuild, self.partition, self, at, limit)
        self.lane.pace.took(piece.looked, time.monotonic() - began)
        return piece

    async def _commit(self, writes: Writes, next_offset: int, oldest_append_time_ms: int) -> None:
        mark = self._mark(writes, next_offset, oldest_append_time_ms)
        encoded = (WATERMARK_KEY, codec("watermark").encode(mark))
        deployment = self.lane.deployment
        rows: dict[Destination, list[Row]] = {
            (deployment.changelog(table), self.partition): [*writes.rows.get(table, ()), encoded]
            for table in self.lane.tables
        }
        if writes.dead_letters:
            rows[deployment.dead_letters(self.lane.fold.source), 0] = writes.dead_letters
        for topic, partition, key, value in writes.outgoing:
            rows.setdefault((deployment.topic(topic), partition), []).append((key, value))
        with metrics.transaction_seconds.labels(self.lane.fold.source).time():
            last = await self._written(rows, next_offset)
        self.lane.failpoint.reach("committed")
        await self.lane.in_executor(self._store, rows, last)
        self.lane.failpoint.reach("stored")
        self.watermark = mark

    def _store(self, rows: Mapping[Destination, list[Row]], last: Mapping[Destination, int]) -> None:
        for table in self.lane.tables.values():
            to = (self.lane.deployment.changelog(table.name), self.partition)
            table.put_many(self.partition, rows[to], last[to])
            self.lane.failpoint.reach("first_stored")

    async def _written(self, rows: dict[Destination, list[Row]], next_offset: int) -> dict[Destination, int]:
        """One transaction, within the budget: aiokafka itself would wait for an absent broker for ever."""
        sent = self._writer.write(rows, next_offset, lambda: self.lane.failpoint.reach("sent"))
        try:
            return await asyncio.wait_for(sent, self.lane.broker_budget_s)
        except TimeoutError as error:
            raise Unavailable(
                f"the broker took no batch of {self.tp.topic}-{self.partition} for {self.lane.broker_budget_s:.0f} s"
            ) from error

    def _mark(self, writes: Writes, next_offset: int, oldest_append_time_ms: int) -> Watermark:
        before = self.watermark["max_event_time_ms"] if self.watermark else 0
        return Watermark(
            source_topic_id=self._topic_id,
            next_source_offset=next_offset,
            max_event_time_ms=max(before, writes.max_event_time_ms or 0),
            oldest_append_time_ms=oldest_append_time_ms,
            writer_epoch=self._writer.epoch,
            wall_time_ms=int(time.time() * 1000),
        )
