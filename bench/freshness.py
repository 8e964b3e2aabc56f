"""Freshness: from the moment an update is due to be sent until a read-committed reader of the changelog has its row.

Open loop: updates are sent by the clock, whatever the worker does, and the time counts from when each was due, so that
a stall of anything (sender, broker, worker, reader) is in the figure for every update that it held up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Unavailable
from schemas.ids import WATERMARK_KEY

__all__ = ["WARM_UP_S", "measure_freshness"]

#: Updates due in the first seconds are sent and not counted.
WARM_UP_S: Final = 3.0
_TICK_S: Final = 0.002
_DRAIN_WITHIN_S: Final = 30.0


def measure_freshness(
    deployment: Deployment, table: str, messages: Iterator[tuple[int, bytes, bytes]], per_s: int
) -> npt.NDArray[np.float64]:
    """Send the messages at `per_s` a second into item-updates, which must be empty; milliseconds of each ([n])."""
    reader = _Reader(deployment, table)
    reader.start()
    due = _send(deployment, messages, per_s)
    for partition, times in due.items():
        reader.wait_for(partition, len(times))
    reader.stop()
    started = min(times[0] for times in due.values())
    return np.concatenate(
        [
            _latencies_ms(np.array(times), reader.seen[partition], started + WARM_UP_S)
            for partition, times in due.items()
        ]
    )


def _latencies_ms(due: npt.NDArray[np.float64], seen: list[tuple[int, float]], since: float) -> Any:
    # The k-th update of a partition has offset k; it is readable at the first watermark beyond it.
    next_offsets = np.array([offset for offset, _ in seen])
    at = np.array([when for _, when in seen])
    readable = at[np.searchsorted(next_offsets, np.arange(len(due)), side="right")]
    return 1000 * (readable - due)[due >= since]


def _send(deployment: Deployment, messages: Iterator[tuple[int, bytes, bytes]], per_s: int) -> dict[int, list[float]]:
    producer = Producer(
        {"bootstrap.servers": deployment.bootstrap_servers, "linger.ms": 2, "enable.idempotence": True}
    )
    topic = deployment.topic("item-updates")
    due: dict[int, list[float]] = {}
    started = time.perf_counter()
    for at, (partition, key, value) in enumerate(messages):
        when = started + at / per_s
        while (now := time.perf_counter()) < when:
            producer.poll(0)
            time.sleep(max(0.0, min(_TICK_S, when - now)))
        producer.produce(topic, value, key, partition=partition)
        due.setdefault(partition, []).append(when)
    if producer.flush(_DRAIN_WITHIN_S):
        raise Unavailable(f"{topic}: the broker did not take every update within {_DRAIN_WITHIN_S:.0f} s")
    return due


class _Reader(threading.Thread):
    """Notes when which source offset became readable, from the watermark rows of a changelog."""

    def __init__(self, deployment: Deployment, table: str) -> None:
        super().__init__(daemon=True)
        self._topic = deployment.changelog(table)
        self._consumer = Consumer(
            {
                "bootstrap.servers": deployment.bootstrap_servers,
                "group.id": "bench-freshness",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
            }
        )
        self._consumer.assign([TopicPartition(self._topic, each, 0) for each in range(deployment.partitions)])
        #: By partition: (next source offset, when it was read), in order.
        self.seen: dict[int, list[tuple[int, float]]] = {each: [] for each in range(deployment.partitions)}
        self._stopping = threading.Event()

    def run(self) -> None:
        decode = codec("watermark").decode
        while not self._stopping.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None or message.key() != WATERMARK_KEY:
                continue
            now = time.perf_counter()
            self.seen[message.partition()].append((decode(message.value())["next_source_offset"], now))

    def wait_for(self, partition: int, offset: int) -> None:
        """Return once this source offset has been applied. Raises Unavailable after a while."""
        deadline = time.monotonic() + _DRAIN_WITHIN_S
        while not (seen := self.seen[partition]) or seen[-1][0] < offset:
            if time.monotonic() > deadline:
                raise Unavailable(f"{self._topic}-{partition} did not reach source offset {offset}: found {seen[-1:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End the thread and its connection."""
        self._stopping.set()
        self.join()
        self._consumer.close()
