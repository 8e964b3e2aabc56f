"""The records that every candidate gets, and the check that it has done the work.

The source topic is filled before a candidate starts; what it must have counted in the end is then read back from its
changelog, so that a fast engine that loses records cannot look good.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bench.plain_fold import counted
from domain.partitioner import partitions_of
from producers.topics import create_topics
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Corrupt, Unavailable
from schemas.ids import WATERMARK_KEY, entity_keys

__all__ = [
    "Changelog",
    "check_counts",
    "fill_items",
    "fill_plain",
    "item_updates",
    "prepare",
    "produce",
    "read_changelog",
    "remove",
]

_FLUSH_WITHIN_S: Final = 60.0
_PLAIN_BYTES: Final = 64
_CATEGORIES: Final = 300
#: Topic, partition, key, value.
_Message = tuple[int, bytes, bytes]


def prepare(deployment: Deployment) -> None:
    """Make the deployment's topics and its folder."""
    deployment.data_dir.mkdir(parents=True, exist_ok=True)
    create_topics(deployment)


def remove(deployment: Deployment) -> None:
    """Delete every topic under the deployment's prefix, those that a rival made included."""
    admin = AdminClient({"bootstrap.servers": deployment.bootstrap_servers})
    names = [name for name in admin.list_topics(timeout=10).topics if deployment.prefix in name]
    for future in admin.delete_topics(names).values():
        future.result(timeout=30)


def fill_plain(deployment: Deployment, records: int, keys: int, *, distinct: bool = False) -> None:
    """64-byte values under keys drawn from `keys` entities; `distinct` takes each of them once."""
    random = np.random.default_rng(1)
    entities = np.arange(records) if distinct else random.integers(0, keys, records)
    values = random.bytes(_PLAIN_BYTES * records)
    partitions = partitions_of(entities, deployment.partitions).tolist()
    messages = zip(
        partitions, entity_keys(entities), (values[at : at + 64] for at in range(0, len(values), 64)), strict=True
    )
    produce(deployment, deployment.topic("item-updates"), messages)


def fill_items(deployment: Deployment, records: int, keys: int, *, distinct: bool = False) -> None:
    """Item updates as a catalogue sends them: title, category, price and embedding."""
    produce(deployment, deployment.topic("item-updates"), item_updates(deployment, records, keys, distinct=distinct))


def item_updates(
    deployment: Deployment, records: int, keys: int, *, distinct: bool = False, from_ms: int | None = None
) -> Iterator[tuple[int, bytes, bytes]]:
    """(partition, key, encoded ItemUpdate) of many updates of `keys` items, a millisecond apart.

    Event times begin at `from_ms`; without it they end now.
    """
    random = np.random.default_rng(2)
    entities = np.arange(records) if distinct else random.integers(0, keys, records)
    vectors = random.standard_normal((1024, deployment.embedding_dim)).astype("<f4")
    now_ms = int(time.time() * 1000) - records if from_ms is None else from_ms
    encode = codec("item_update").encode
    partitions = partitions_of(entities, deployment.partitions).tolist()
    for at, (item, key, partition) in enumerate(zip(entities.tolist(), entity_keys(entities), partitions, strict=True)):
        update = {
            "event_id": at, "item_id": item, "event_time_ms": now_ms + at, "op": "upsert",
            "title": f"item {item}, as of update {at}", "category_id": item % _CATEGORIES, "price": float(item % 997),
            "embedding": vectors[at % 1024].tobytes(),
        }  # fmt: skip
        yield partition, key, encode(update)


def produce(deployment: Deployment, topic: str, messages: Iterator[_Message]) -> int:
    """Send all messages and wait until the broker has them. Raises Unavailable where it does not take them."""
    failed: list[Any] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        {
            "bootstrap.servers": deployment.bootstrap_servers,
            "linger.ms": 20,
            "batch.size": 1 << 19,
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    count = 0
    for partition, key, value in messages:
        while True:
            try:
                producer.produce(topic, value, key, partition=partition, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        count += 1
        if count % 1000 == 0:
            producer.poll(0)
    left = producer.flush(_FLUSH_WITHIN_S)
    if left or failed:
        raise Unavailable(f"{topic}: {left + len(failed)} of {count} records were not taken ({failed[:1]})")
    return count


class Changelog:
    """What a changelog holds: records, watermark rows aside, and the newest value of each key."""

    def __init__(self) -> None:
        self.records = 0
        self.newest: dict[tuple[int, bytes], bytes] = {}

    @property
    def counted(self) -> int:
        """Source records that the newest rows have counted together."""
        return sum(counted(row)[0] for row in self.newest.values())


def read_changelog(deployment: Deployment, topic: str) -> Changelog:
    """All committed records of a changelog topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": deployment.bootstrap_servers,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found, open_partitions = Changelog(), set(partitions)
    while open_partitions:
        for message in consumer.consume(2000, timeout=0.5):
            if message.error() is not None:
                open_partitions.discard(message.partition())  # the end; nothing else comes without an exception
            elif message.key() != WATERMARK_KEY:
                found.records += 1
                found.newest[message.partition(), message.key()] = message.value()
    consumer.close()
    return found


def check_counts(found: Changelog, records: int, who: str) -> None:
    """Raise Corrupt unless every source record was counted exactly once."""
    if found.counted != records:
        raise Corrupt(f"{who}: {records} records went in, its rows count {found.counted}: the figure means nothing")
