from __future__ import annotations

from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from producers.datasets import Entry, open_dataset
from producers.sender import ITEMS, USERS, Sender
from producers.topics import create_topics
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import entity_key


def read_topic(deployment: Deployment, name: str) -> list[Any]:
    """Every record of a topic, partition by partition."""
    with KafkaConsumer(bootstrap_servers=deployment.bootstrap_servers, group_id=None) as consumer:
        partitions = [TopicPartition(deployment.topic(name), n) for n in range(deployment.partitions)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for records in consumer.poll(timeout_ms=200).values():
                found.extend(records)
    return found


@pytest.mark.broker
def test_records_arrive_where_every_client_would_put_them(deployment: Deployment) -> None:
    """Each record lies in murmur2 of its key, in order per entity, and decodes to what was sent."""
    create_topics(deployment)
    entries = list(open_dataset("online-retail-sample", limit=3_000).entries())
    sender = Sender(deployment)
    for at in range(0, len(entries), 500):
        sender.send(entries[at : at + 500])
    sender.flush()
    sender.close()
    assert (sender.events, sender.items) == (3_000, len(entries) - 3_000)
    for name, kind, schema, entity in (
        (ITEMS, "item", "item_update", "item_id"),
        (USERS, "user", "user_event", "user_id"),
    ):
        records = read_topic(deployment, name)
        values = [codec(schema).decode(record.value) for record in records]
        for record, value in zip(records, values, strict=True):
            assert record.key == entity_key(value[entity])
            assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % deployment.partitions
        by_entity: dict[int, list[int]] = {}
        for value in values:
            by_entity.setdefault(value[entity], []).append(value["event_id"])
        sent: dict[int, list[int]] = {}
        for found_kind, each in entries:
            if found_kind == kind:
                sent.setdefault(each[entity], []).append(each["event_id"])  # type: ignore[literal-required]
        assert by_entity == sent
        for partition in range(deployment.partitions):
            assert sender.offsets[name, partition] == max(r.offset for r in records if r.partition == partition)


@pytest.mark.broker
def test_a_record_off_contract_is_bad_input(deployment: Deployment) -> None:
    """A record that Avro refuses stops the run as the mapping's fault; what went before stays countable."""
    create_topics(deployment)
    (entry,) = [entry for entry in open_dataset("online-retail-sample", limit=1).entries() if entry[0] == "user"]
    broken: Entry = ("user", {**entry[1], "action": "stare"})  # type: ignore[assignment,typeddict-item]
    sender = Sender(deployment)
    with pytest.raises(BadInput, match="contract"):
        sender.send([entry, broken])
    sender.flush()
    sender.close()
    assert sender.events == 1
