"""Changelog topics, the writing half: one fenced transaction per batch. restore.py reads them back.

The writer of a partition has the transactional id group + source topic + partition. Starting one takes the id over
from whoever had it: an unfinished transaction of theirs is aborted and their next write fails (KIP-98), so a worker
that was paused through a rebalance can never overwrite the new owner's rows. All rows of a batch, of all tables, and
the source offset are one transaction: there is no state between "before the batch" and "after it".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.producer import sender

from schemas.errors import Corrupt, Unavailable
from streams.store import Row

__all__ = ["ChangelogWriter", "Destination", "translated"]

logger = logging.getLogger(__name__)

#: Topic and partition that rows go to.
Destination = tuple[str, int]

#: How long aiokafka waits while the broker still writes the last transaction's markers, which takes a few ms: its own
#: 20 ms would be most of a small batch's time. A module constant of theirs; internals.py checks that it is used.
sender.BACKOFF_OVERRIDE = 0.003

_TRANSACTION_TIMEOUT_MS: Final = 60_000
#: Below the broker's default message.max.bytes of 1 MiB, overhead included.
_BATCH_BYTES: Final = 900_000


class ChangelogWriter:
    """Writes the batches of one source partition, each as one transaction.

    Every method raises Unavailable where the broker does not answer in time, and Corrupt where another worker has
    taken the partition over: the process must end, nothing of the batch is visible.
    """

    def __init__(self, bootstrap_servers: str, group: str, source: TopicPartition) -> None:
        self._group, self._source = group, source
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers,
            transactional_id=f"{group}-{source.topic}-{source.partition}",
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            compression_type="zstd",  # aiokafka's lz4 is its slowest level: a third of the speed, for less
            max_batch_size=_BATCH_BYTES,
        )

    async def start(self) -> None:
        """Take the partition over: from here on nobody else's writes to it succeed."""
        with translated(f"taking over {self._source.topic}-{self._source.partition}"):
            await self._producer.start()

    @property
    def epoch(self) -> int:
        """The producer epoch: rises with every take-over."""
        return int(self._producer._txn_manager.producer_epoch)

    async def write(
        self, rows: Mapping[Destination, Iterable[Row]], next_offset: int, before_commit: Callable[[], None]
    ) -> dict[Destination, int]:
        """Commit the rows and the source partition's next offset; the offset of each destination's last row.

        `before_commit` is called when all rows are on their way.
        """
        with translated(f"writing a batch of {self._source.topic}-{self._source.partition}"):
            await self._producer.begin_transaction()
            # Everything joins the transaction before the first row is sent. The broker asks its coordinator whether a
            # row's partition is in the transaction (KIP-890), and while another joins the answer is to come again
            # later: aiokafka would wait its 100 ms.
            for topic, partition in rows:
                self._producer._txn_manager.maybe_add_partition_to_txn(TopicPartition(topic, partition))
            await self._producer.send_offsets_to_transaction({self._source: next_offset}, self._group)
            pending = {to: await self._send(to, some) for to, some in rows.items()}
            before_commit()
            await self._producer.commit_transaction()
            return {to: await last for to, last in pending.items() if last is not None}

    async def _send(self, to: Destination, rows: Iterable[Row]) -> asyncio.Future[int] | None:
        topic, partition = to
        now_ms = int(time.time() * 1000)
        sent: list[tuple[asyncio.Future[Any], int]] = []
        batch, count = self._producer.create_batch(), 0
        for key, value in rows:
            if batch.append(key=key, value=value, timestamp=now_ms) is None:
                sent.append((await self._producer.send_batch(batch, topic, partition=partition), count))
                batch, count = self._producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=now_ms)  # a first row fits whatever its size
            count += 1
        if count:
            sent.append((await self._producer.send_batch(batch, topic, partition=partition), count))
        return asyncio.ensure_future(_last_offset(sent)) if sent else None

    async def stop(self) -> None:
        """Give the partition up in good order."""
        with translated("closing a changelog writer"):
            await self._producer.stop()


async def _last_offset(sent: list[tuple[asyncio.Future[Any], int]]) -> int:
    future, count = sent[-1]
    metadata = await future
    return int(metadata.offset) + count - 1


class translated:
    """Turns Kafka's errors into ours: fenced is Corrupt, the rest Unavailable."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ProducerFenced):
            raise Corrupt(f"{self._doing}: another worker has taken this partition over; this one must end") from error
        if isinstance(error, KafkaError):
            raise Unavailable(f"{self._doing}: {type(error).__name__}: {error}") from error
