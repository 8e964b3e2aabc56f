"""A standby: a copy of another worker's partition, kept warm so that taking it over restores seconds, not hours.

Faust's assignor places standbys (`--standby-replicas`); the lane follows their changelogs. A standby never writes to
Kafka. When the partition becomes this worker's own, the standby ends and streams/partition.py goes on from its store.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from faust.types import TP

if TYPE_CHECKING:
    from streams.lane import Lane

__all__ = ["Standby"]

logger = logging.getLogger(__name__)


class Standby:
    """Follows the changelogs of one partition of the lane's tables."""

    def __init__(self, lane: Lane, partition: int) -> None:
        self.lane, self.partition = lane, partition
        #: Changelog records that the stores lack, by changelog partition, as of the last fetch.
        self.behind: dict[TopicPartition, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow until closed."""
        self._task = asyncio.create_task(self._run(), name=f"standby {self.lane.topic}-{self.partition}")

    async def close(self) -> None:
        """Stop following and close the stores; they keep what they have."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for table in self.lane.tables.values():
            await self.lane.in_executor(table.close_partition, self.partition)

    async def _run(self) -> None:
        try:
            stores = {}
            for table in self.lane.tables.values():
                store = await self.lane.in_executor(table.open_partition, self.partition)
                stores[TopicPartition(self.lane.deployment.changelog(table.name), self.partition)] = store
            async with self.lane.rim.reader(stores, self._note) as reader:
                logger.info("standby of %s-%d follows", self.lane.topic, self.partition)
                await reader.follow()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.lane.fail(error, TP(self.lane.topic, self.partition))

    def _note(self, tp: TopicPartition, position: int, end: int) -> None:
        self.behind[tp] = max(0, end - position)
