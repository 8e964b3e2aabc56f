"""Freshness: from the moment an update is due to be sent until a read-committed reader of the changelog has its row.

Open loop: updates are sent by the clock, whatever the worker does, and the time counts from when each was due, so that
a stall of anything (sender, broker, worker, reader) is in the figure for every update that it held up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Unavailable
from schemas.ids import WATERMARK_KEY

__all__ = ["WARM_UP_S", "measure_freshness", "timed_updates"]

#: Updates due in the first seconds are sent and not counted.
WARM_UP_S: Final = 3.0
#: The sender sleeps this long, then sends all that has become due.
_TICK_S: Final = 0.002
_LINGER_MS: Final = 5
_DRAIN_WITHIN_S: Final = 30.0


def measure_freshness(
    deployment: Deployment, table: str, messages: Iterator[tuple[int, bytes, bytes]], per_s: int
) -> npt.NDArray[np.float64]:
    """Send the messages at `per_s` a second into item-updates; milliseconds of each ([n]), warming up left out."""
    due, latency_ms = timed_updates(deployment, table, messages, per_s)
    found: npt.NDArray[np.float64] = latency_ms[due >= due.min() + WARM_UP_S]
    return found


def timed_updates(
    deployment: Deployment, table: str, messages: Iterator[tuple[int, bytes, bytes]], per_s: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Send the messages at `per_s` a second into item-updates; when each was due (performance counter, s), and how many
    milliseconds later it was readable ([n] both).

    The first message of each partition is sent ahead and waited for: every connection is then made.
    """
    reader = _Reader(deployment, table)
    reader.start()
    try:
        due = _send(deployment, messages, per_s, reader)
        for partition, times in due.items():
            reader.wait_for(partition, reader.first[partition] + 1 + len(times))
    finally:
        reader.stop()
    each = [(np.array(times), reader.first[partition], reader.seen[partition]) for partition, times in due.items()]
    return np.concatenate([times for times, _, _ in each]), np.concatenate([_latencies_ms(*one) for one in each])


def _latencies_ms(due: npt.NDArray[np.float64], first: int, seen: list[tuple[int, float]]) -> Any:
    # The first offset is the one sent ahead. An update is readable at the first watermark beyond its offset.
    next_offsets = np.array([offset for offset, _ in seen])
    at = np.array([when for _, when in seen])
    readable = at[np.searchsorted(next_offsets, first + np.arange(1, 1 + len(due)), side="right")]
    return 1000 * (readable - due)


def _send(
    deployment: Deployment, messages: Iterator[tuple[int, bytes, bytes]], per_s: int, reader: _Reader
) -> dict[int, list[float]]:
    # Neither idempotent nor retrying: librdkafka spins on its core while five idempotent requests are in flight, which
    # is the broker's core here. Without retries the order, and with it offsets, still holds; an error shows as a record
    # that never becomes readable.
    producer = Producer({"bootstrap.servers": deployment.bootstrap_servers, "linger.ms": _LINGER_MS, "retries": 0})
    topic = deployment.topic("item-updates")
    due: dict[int, list[float]] = {}
    rest = []
    while len(due) < deployment.partitions:
        partition, key, value = next(messages)
        if partition in due:
            rest.append((partition, key, value))
        else:
            due[partition] = []
            producer.produce(topic, value, key, partition=partition)
    _flush(producer, topic)
    for partition in due:
        reader.wait_for(partition, reader.first[partition] + 1)
    started = time.perf_counter()
    for at, (partition, key, value) in enumerate(chain(rest, messages)):
        when = started + at / per_s
        while time.perf_counter() < when:
            producer.poll(0)
            time.sleep(_TICK_S)
        producer.produce(topic, value, key, partition=partition)
        due[partition].append(when)
    _flush(producer, topic)
    return due


def _flush(producer: Producer, topic: str) -> None:
    if producer.flush(_DRAIN_WITHIN_S):
        raise Unavailable(f"{topic}: the broker did not take every update within {_DRAIN_WITHIN_S:.0f} s")


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
        partitions = range(deployment.partitions)
        #: By partition the source offset of the first update that is sent.
        self.first = {each: self._end(deployment.topic("item-updates"), each) for each in partitions}
        self._consumer.assign([TopicPartition(self._topic, each, self._end(self._topic, each)) for each in partitions])
        #: By partition: (next source offset, when it was read), in order.
        self.seen: dict[int, list[tuple[int, float]]] = {each: [] for each in range(deployment.partitions)}
        self._stopping = threading.Event()

    def _end(self, topic: str, partition: int) -> int:
        return int(self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1])

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
