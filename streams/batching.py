"""The consumer half of the lane: one Faust event per fetched partition batch.

Faust's own path makes tasks and messages for every record. Here a fetch of one partition becomes one message whose
value is a `FetchedBatch`, so that cost is paid per batch. Selected by the broker URL scheme `aif://`.

Faust neither commits nor seeks lane topics: the lane does both, in its transactions and from its cursor (cursor.py).
Changelog partitions are in this consumer's assignment only because Faust's assignor places them; they are paused and
read by restore.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import aiokafka
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

__all__ = ["URL_SCHEME", "BatchConsumer", "BatchTransport", "FetchedBatch", "register_transport"]

URL_SCHEME: Final = "aif"
#: Longest wait of one poll: bounds how late a partition that is released again is looked at.
_POLL_S: Final = 0.1


@dataclass(frozen=True)
class FetchedBatch:
    """Records of one source partition, in order, from one fetch.

    The fetch consumed offsets `begin` to `end` - 1; where records are missing from that range the log has none
    (compaction, transaction markers). `fetch` counts fetches of this consumer.
    """

    topic: str
    partition: int
    begin: int
    end: int
    fetch: int
    records: list[Any]

    @property
    def offset(self) -> int:
        """Offset of the last record: what Faust takes as the message's offset."""
        return int(self.records[-1].offset)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(len(record.key or b"") + len(record.value or b"") for record in self.records)


class _Active:
    """A live view of the partitions to return records of.

    aiokafka takes an empty collection for "all partitions" and evaluates it while Faust changes its set: records of
    partitions nobody waits for would then be dropped, with the position moved on. This one is never empty.
    """

    def __init__(self, active: set[TP], held: set[TP]) -> None:
        self._active, self._held = active, held

    def __contains__(self, tp: object) -> bool:
        return tp in self._active and tp not in self._held

    def __bool__(self) -> bool:
        return True


class _RebalanceListener(driver.ConsumerRebalanceListener):  # type: ignore[misc]
    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        consumer = self._thread._ensure_consumer()
        changelogs = self._thread.app.tables.changelog_topics
        consumer.pause(*[tp for tp in assigned if tp.topic in changelogs])
        await super().on_partitions_assigned(assigned)


class _BatchConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Runs in the consumer's own thread, beside heartbeats."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fetches = 0
        self._consumed_to: dict[TP, int] = {}

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust reads uncommitted unless its own exactly-once mode is on, and lets an empty fetch block the broker
        # connection for 1.5 s: a partition that has been held back would wait that long.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = 100
        return consumer

    async def _fetch_records(  # overrides, so the parameters are Faust's
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109
        max_records: int | None = None,
    ) -> dict[TP, list[FetchedBatch]]:
        fetched = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        self._fetches += 1
        return {tp: [self._batch(consumer, tp, records)] for tp, records in fetched.items()}

    def _batch(self, consumer: Any, tp: TP, records: list[Any]) -> FetchedBatch:
        # No await since the fetcher handed the records out: the position is still the one behind them.
        end = consumer._subscription.subscription.assignment.state_value(tp).position
        begin = self._consumed_to.get(tp, records[0].offset)
        self._consumed_to[tp] = end
        return FetchedBatch(tp.topic, tp.partition, min(begin, records[0].offset), end, self._fetches, records)

    async def rewind(self, tp: TP, offset: int) -> int:
        """Fetch `tp` from `offset` on; returns the number of the last fetch that may have begun before."""
        consumer = self._ensure_consumer()

        async def seek() -> int:
            # Taken away in this moment: the rebalance that did it ends with another rewind, or without the partition.
            with suppress(IllegalStateError):
                consumer.seek(tp, offset)
                self._consumed_to[tp] = offset
            return self._fetches + 1

        return int(await self.call_thread(seek))

    async def consumed_to(self, tp: TP) -> int | None:
        """The next offset this consumer would hand out, None before the first rewind."""
        return self._consumed_to.get(tp)

    async def gap_behind(self, tp: TP) -> tuple[int, int]:
        """The offsets behind what was handed out that are known to have no records: first, and first that may have."""
        consumer = self._ensure_consumer()

        async def look() -> tuple[int, int]:
            # Records are handed out and noted in one step of this thread: a position further on has passed none.
            begin, assignment = self._consumed_to.get(tp), consumer._subscription.subscription.assignment
            if begin is None or tp not in assignment.tps:
                return 0, 0
            state = assignment.state_value(tp)
            return begin, state.position if state.has_valid_position else begin

        found: tuple[int, int] = await self.call_thread(look)
        return found

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Nothing: the lane knows better than the group where its tables stand, and rewinds itself."""
        return {}


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, handing out `FetchedBatch` messages and leaving offsets to the lane."""

    RebalanceListener = _RebalanceListener

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Partitions whose records are not to be handed out for now: not recovered yet, or enough in hand.
        self.held: set[TP] = set()

    def _new_consumer_thread(self) -> _BatchConsumerThread:
        return _BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        active = active_partitions or set()
        if not active - self.held:
            await asyncio.sleep(_POLL_S)
            return {}
        return await self._thread.getmany(_Active(active, self.held), min(timeout, _POLL_S))

    def _to_message(self, tp: TP, record: FetchedBatch) -> driver.ConsumerMessage:
        # Faust drops messages below its own read offset; a rewind is the lane's business, so it must not remember.
        self._read_offset[tp] = None
        last = record.records[-1]
        timestamp_s = last.timestamp / 1000.0
        return driver.ConsumerMessage(
            record.topic, record.partition, record.offset, timestamp_s, last.timestamp_type, (), None, record,
            None, 0, 0, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    def _new_offset(self, tp: TP) -> int | None:
        """None: Faust commits nothing."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return None

    async def rewind(self, tp: TP, offset: int) -> int:
        """See _BatchConsumerThread.rewind."""
        return int(await self._thread.rewind(tp, offset))

    async def consumed_to(self, tp: TP) -> int | None:
        """See _BatchConsumerThread.consumed_to."""
        found: int | None = await self._thread.consumed_to(tp)
        return found

    async def gap_behind(self, tp: TP) -> tuple[int, int]:
        """See _BatchConsumerThread.gap_behind."""
        found: tuple[int, int] = await self._thread.gap_behind(tp)
        return found

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust's stall detection compares clocks of two kinds; the lane has its own (partition.py)."""


class BatchTransport(driver.Transport):  # type: ignore[misc]
    """Faust's aiokafka transport with the batching consumer."""

    Consumer = BatchConsumer


def register_transport() -> None:
    """Make `aif://` broker URLs use BatchTransport."""
    TRANSPORTS.aliases[URL_SCHEME] = f"{__name__}:BatchTransport"
