from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from producers.datasets import Dataset, open_dataset
from producers.replay import Options, Status, replay
from producers.sender import ITEMS, USERS
from producers.topics import create_topics
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable

pytestmark = pytest.mark.broker


def _dataset(**options: Any) -> Dataset:
    return open_dataset("online-retail-sample", limit=8_000, **options)


def _ids(deployment: Deployment, topic: str, schema: str) -> list[dict[str, Any]]:
    with KafkaConsumer(bootstrap_servers=deployment.bootstrap_servers, group_id=None) as consumer:
        partitions = [TopicPartition(deployment.topic(topic), n) for n in range(deployment.partitions)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[dict[str, Any]] = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for records in consumer.poll(timeout_ms=200).values():
                found.extend(codec(schema).decode(record.value) for record in records)
    return found


def test_a_stopped_replay_goes_on_where_it_was(deployment: Deployment) -> None:
    """Stop and resume send every record exactly once between them, and a completed run has nothing left."""
    create_topics(deployment)
    stop = threading.Event()

    def stop_halfway(status: Status) -> None:
        if status.events > 2_000:
            stop.set()

    first = replay(_dataset(), deployment, Options(), stop, stop_halfway)
    assert not first.complete and 2_000 < first.events < 8_000
    rest = replay(_dataset(), deployment, Options(resume=True), threading.Event())
    assert rest.complete and rest.skipped == first.events + first.items
    again = replay(_dataset(), deployment, Options(resume=True), threading.Event())
    assert (again.events, again.items, again.complete) == (0, 0, True)
    expected = list(_dataset().entries())
    for kind, topic, schema in (("user", USERS, "user_event"), ("item", ITEMS, "item_update")):
        sent = Counter(record["event_id"] for record in _ids(deployment, topic, schema))
        assert sent == Counter(record["event_id"] for each, record in expected if each == kind)
    ends = {topic: sum(by_partition.values()) for topic, by_partition in rest.offsets.items()}
    assert ends[USERS] == 8_000 - deployment.partitions  # the last offset is one less than the count


def test_an_error_keeps_what_was_acknowledged(deployment: Deployment, tmp_path: Path) -> None:
    """When the data breaks half-way, the position is saved, and a resume after the repair sends only the rest."""
    create_topics(deployment)
    lines = [f"{n % 7},{n % 5},{n}" for n in range(5_000)]
    mapping = {
        "name": "tiny", "source": {"file": "t.csv", "sorted": True, "time": {"column": "at", "unit": "ms"}},
        "events": {"user": {"column": "u", "id": "int"}, "item": {"column": "i", "id": "int"},
                   "actions": {"constant": "view"}},
        "items": {"from": "events"},
    }  # fmt: skip
    (tmp_path / "tiny.json").write_text(json.dumps(mapping))

    def tiny(broken: str) -> Dataset:
        rows = [*lines[:3_999], broken, *lines[4_000:]]
        (tmp_path / "t.csv").write_text("u,i,at\n" + "\n".join(rows) + "\n")
        return open_dataset(tmp_path / "tiny.json", strict=True)

    with pytest.raises(BadInput, match="line 4001"):
        replay(tiny("x,4,3999"), deployment, Options(), threading.Event())
    rest = replay(tiny(lines[3_999]), deployment, Options(resume=True), threading.Event())
    assert rest.complete and rest.skipped >= 1_000
    sent = Counter(record["event_time_ms"] for record in _ids(deployment, USERS, "user_event"))
    assert set(sent) == set(range(5_000))
    assert rest.events + rest.items + rest.skipped == 5_005


def test_a_broker_that_refuses_loses_nothing(deployment: Deployment) -> None:
    """Refused by the broker half-way, a replay stops and says how to go on; resumed, every event is there."""
    create_topics(deployment)
    topic = ConfigResource(ConfigResourceType.TOPIC, deployment.topic(USERS))
    with KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers) as admin:

        def refuse(status: Status) -> None:
            if status.events > 2_000 and not topic.configs:
                # No record is as small as this: the broker refuses from here on.
                topic.configs = {"max.message.bytes": "20"}
                admin.alter_configs([topic])

        with pytest.raises(Unavailable, match="--resume"):
            replay(_dataset(), deployment, Options(give_up_after_s=1.0), threading.Event(), refuse)
        topic.configs = {"max.message.bytes": "1048588"}
        admin.alter_configs([topic])
    rest = replay(_dataset(), deployment, Options(resume=True), threading.Event())
    assert rest.complete and rest.skipped > 2_000
    sent = {record["event_id"] for record in _ids(deployment, USERS, "user_event")}
    assert sent == {record["event_id"] for kind, record in _dataset().entries() if kind == "user"}


def test_rebase_moves_the_log_to_now(deployment: Deployment) -> None:
    """At full speed the newest record lands on now; ids differ from the unmoved ones; nothing lies in the future."""
    create_topics(deployment)
    now_ms = 1_800_000_000_000
    replay(open_dataset("online-retail-sample", limit=500), deployment, Options(rebase_to_ms=now_ms), threading.Event())
    moved = _ids(deployment, USERS, "user_event")
    plain = [record for kind, record in open_dataset("online-retail-sample", limit=500).entries() if kind == "user"]
    assert max(record["event_time_ms"] for record in moved) == now_ms
    assert not {record["event_id"] for record in moved} & {record["event_id"] for record in plain}
    span = max(record["event_time_ms"] for record in plain) - min(record["event_time_ms"] for record in plain)
    assert now_ms - min(record["event_time_ms"] for record in moved) == span


def test_a_pace_holds_events_back(deployment: Deployment) -> None:
    """At a speed that makes the selected span 0.6 s long, the replay takes about that long and sends all."""
    create_topics(deployment)
    times = [record["event_time_ms"] for kind, record in open_dataset("online-retail-sample", limit=300).entries()]
    speed = (max(times) - min(times)) / 600
    summary = replay(
        open_dataset("online-retail-sample", limit=300), deployment, Options(speed=speed), threading.Event()
    )
    assert summary.complete and summary.events == 300 and 0.55 < summary.seconds < 6


def test_topics_must_exist(deployment: Deployment) -> None:
    """Without topics nothing is sent and the message says how to make them."""
    with pytest.raises(BadInput, match="aif topics create"):
        replay(_dataset(), deployment, Options(), threading.Event())
