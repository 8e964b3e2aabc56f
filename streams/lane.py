"""A lane: one source topic, its tables, and the partitions of them that this worker owns.

Faust says which partitions those are and hands the fetched batches to the agent; everything between that and durable
tables is the lane's. Policy on errors: whatever leaves a batch ends the process with one clear line, and the
supervisor (systemd, Kubernetes, `aif demo`) starts it again. Faust's own restart of an agent would step over records.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from aiokafka import TopicPartition
from faust.types import TP

from schemas.deployment import Deployment
from schemas.errors import AifError, exit_status
from streams.batching import BatchConsumer, FetchedBatch
from streams.changelog import ChangelogWriter
from streams.failpoint import NO_FAILPOINT, Failpoint
from streams.fold import Fold
from streams.pace import Pace
from streams.partition import LanePartition
from streams.restore import ChangelogReader, Progress
from streams.sources import source_topic_ids
from streams.standby import Standby
from streams.store import Store
from streams.tables import BatchedTable

__all__ = ["KafkaRim", "Lane", "Rim"]

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

#: Without a batch for this long, a source partition is at rest.
_AT_REST_S: Final = 60.0
#: An orderly stop takes less than ten seconds, whatever the broker does.
_STOP_WITHIN_S: Final = 7.0


def _exit(code: int) -> None:
    logging.shutdown()
    os._exit(code)


async def _at_once() -> None:
    """There is nothing to wait for."""


class Rim(Protocol):
    """Where a lane touches the world: replaced in tests by a simulated broker that crashes on schedule."""

    def writer(self, source: TopicPartition) -> ChangelogWriter:
        """The writer of a source partition's batches."""

    def reader(self, stores: Mapping[TopicPartition, Store], progress: Progress) -> ChangelogReader:
        """A reader of changelog partitions into stores."""

    async def topic_id(self, topic: str) -> int:
        """The head of a topic's id, as it is now."""

    async def run(self, work: Callable[..., Result], *args: Any) -> Result:
        """Blocking work, beside the loop."""


class KafkaRim:
    """The real one: Kafka, and executor threads for folds, torch and RocksDB, so that heartbeats go on beside them."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="lane")

    def writer(self, source: TopicPartition) -> ChangelogWriter:
        """See Rim."""
        return ChangelogWriter(self._deployment.bootstrap_servers, self._deployment.group, source)

    def reader(self, stores: Mapping[TopicPartition, Store], progress: Progress) -> ChangelogReader:
        """See Rim."""
        return ChangelogReader(self._deployment.bootstrap_servers, stores, progress)

    async def topic_id(self, topic: str) -> int:
        """See Rim."""
        ids = await asyncio.to_thread(source_topic_ids, self._deployment, [topic])
        return ids[topic]

    async def run(self, work: Callable[..., Result], *args: Any) -> Result:
        """See Rim."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)


class Lane:
    """One lane of one worker process."""

    def __init__(
        self,
        app: Any,
        deployment: Deployment,
        fold: Fold,
        tables: dict[str, BatchedTable],
        rim: Rim,
        *,
        reset_recreated: bool = False,
        broker_budget_s: float = 60.0,
        rebuild_rows_per_s: float = 0.0,
        failpoint: Failpoint = NO_FAILPOINT,
        exit_process: Callable[[int], None] = _exit,
    ) -> None:
        self.app, self.deployment, self.fold, self.tables = app, deployment, fold, tables
        self.topic = deployment.topic(fold.source)
        #: Whether tables of a source topic that was made again are emptied and made anew from it.
        self.reset_recreated = reset_recreated
        #: How long a transaction may take, an absent broker included, before the process gives up.
        self.broker_budget_s = broker_budget_s
        self.partitions: dict[int, LanePartition] = {}
        self.standbys: dict[int, Standby] = {}
        self.failpoint = failpoint
        self._exit_process = exit_process
        self.rim = rim
        #: Of the rebuilds of all partitions.
        self.pace = Pace(rebuild_rows_per_s)
        #: Awaited by a partition that was taken over, when no other worker can write to it any more.
        self.before_taking_over: Callable[[], Awaitable[None]] = _at_once
        #: Called with a partition's number when it is ready, and after each of its batches.
        self.on_progress: Callable[[int], None] = lambda partition: None

    @property
    def consumer(self) -> BatchConsumer:
        """The worker's consumer."""
        consumer: BatchConsumer = self.app.consumer
        return consumer

    def offer(self, batch: FetchedBatch) -> None:
        """Route a fetched batch to its partition; one that is not owned any more is dropped."""
        partition = self.partitions.get(batch.partition)
        if partition is not None:
            partition.offer(batch)

    async def revoked(self) -> None:
        """A rebalance begins: finish what is in hand, apply nothing until it is over."""
        for number, partition in list(self.partitions.items()):
            if partition.cursor is None:
                await self._close(number)  # still taking over: cheaper begun again than kept
            else:
                await partition.suspend()

    async def assigned(self, tps: set[TP], standby_tps: set[TP]) -> None:
        """The rebalance is over: keep, let go and take over as it says."""
        owned = {tp.partition for tp in tps if tp.topic == self.topic}
        changelogs = {self.deployment.changelog(table) for table in self.tables}
        warm = {tp.partition for tp in standby_tps if tp.topic in changelogs} - owned
        for number in set(self.standbys) - warm:
            await self.standbys.pop(number).close()
        for number in set(self.partitions) - owned:
            await self._close(number)
        for number in sorted(warm - set(self.standbys)):
            self.standbys[number] = Standby(self, number)
            self.standbys[number].start()
        for partition in self.partitions.values():
            await partition.resume()
        for number in sorted(owned - set(self.partitions)):
            self.partitions[number] = LanePartition(self, number)
            self.partitions[number].start()

    async def stop(self) -> None:
        """Let go of everything in good order; what the broker does not take in time, the next start takes again."""
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                for standby in self.standbys.values():
                    await standby.close()
                for number in list(self.partitions):
                    await self._close(number)
        except TimeoutError:
            logger.error("%s: the broker takes no more batches, stopping without the last one", self.topic)

    async def watch(self) -> None:
        """Look after partitions that stand still; runs for the life of the worker."""
        while True:
            await asyncio.sleep(1)
            for partition in list(self.partitions.values()):
                await partition.check_progress()
                await self._pass_markers(partition)
                await partition.check_stall()

    async def _pass_markers(self, partition: LanePartition) -> None:
        """Apply the markers of transactions that end a source partition at rest.

        Otherwise its tables would stand before them for ever, and when retention has deleted them in the end, look as
        if they lacked records.
        """
        last = partition.last_batch_at
        if partition.ready and (last is None or time.monotonic() - last > _AT_REST_S):
            await partition.pass_over(*await self.consumer.gap_behind(partition.tp))

    def wake(self) -> None:
        """Tell the partitions that there is something to rebuild."""
        for partition in self.partitions.values():
            partition.wake()

    def wake_partition(self, number: int) -> None:
        """Tell one partition that there may be something to rebuild; nothing where it is not owned."""
        if (partition := self.partitions.get(number)) is not None:
            partition.wake()

    async def in_executor(self, work: Callable[..., Result], *args: Any) -> Result:
        """Run blocking work beside the loop; a caller that is cancelled waits for it all the same.

        Threads cannot be cancelled: what an abandoned one opens or writes would meet its successor's.
        """
        job = asyncio.ensure_future(self.rim.run(work, *args))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait([job])
            raise

    def fail(self, error: BaseException, tp: TP) -> None:
        """End the process: nothing of the batch in hand is committed, the restart takes it again."""
        partition = self.partitions.get(tp.partition) if tp.topic == self.topic else None
        at = f" at offset {partition.cursor.expected}" if partition is not None and partition.cursor else ""
        if not isinstance(error, AifError):
            logger.error("%s-%d: an error nobody expected", tp.topic, tp.partition, exc_info=error)
        logger.critical(
            "%s-%d%s: %s: %s. Nothing of this batch is committed; ending the process so that it is taken again",
            tp.topic, tp.partition, at, type(error).__name__, error,
        )  # fmt: skip
        self._exit_process(exit_status(error))

    async def _close(self, number: int) -> None:
        await self.partitions.pop(number).close()
