"""The night commands against a real broker and a running worker."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import time
from typing import Any

import click
import pytest
from click.testing import CliRunner
from fleet import Traffic, WorkerProcess, create_topics, drained, running, source_ends, verified, wait_for
from forked import Forked
from forked import aif as forked_aif
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from cli import dead_letters, lag, tables
from domain.partitioner import partition_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, BadRecord
from schemas.ids import WATERMARK_KEY, entity_id, entity_key, hashed_id
from schemas.topics import TABLES
from streams.fold import SourceRecord
from streams.intake import dead_letter
from streams.lag import measure
from streams.readable import readable_row

TWO_HOURS_MS = 7_200_000


def options(deployment: Deployment) -> list[str]:
    """The deployment as command-line options."""
    where = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix]
    return [*where, "--partitions", str(deployment.partitions), "--data-dir", str(deployment.data_dir)]


def aif(command: click.Command, deployment: Deployment, *arguments: str) -> str:
    """What a command prints; it must succeed."""
    result = CliRunner().invoke(command, [*arguments, *options(deployment)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def user_event(user: int, event: int, time_ms: int) -> bytes:
    """An encoded user event."""
    return codec("user_event").encode(
        {"event_id": event, "user_id": user, "item_id": 1, "event_time_ms": time_ms, "action": "click",
         "category_id": None, "value": None}
    )  # fmt: skip


def records_of(deployment: Deployment, topic: str, partition: int) -> list[Any]:
    """All committed records of a topic partition now."""
    consumer = KafkaConsumer(
        bootstrap_servers=deployment.bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False
    )
    tp = TopicPartition(topic, partition)
    try:
        consumer.assign([tp])
        consumer.seek_to_beginning(tp)
        found: list[Any] = []

        def read_to_the_end() -> bool:
            found.extend(consumer.poll(200).get(tp, []))
            return bool(consumer.position(tp) >= consumer.end_offsets([tp])[tp])

        wait_for(read_to_the_end, 30)
        return found
    finally:
        consumer.close()


def sent_again(deployment: Deployment) -> list[str]:
    """The coordinates in the headers of all user events that were sent again."""
    return [
        value.decode()
        for partition in range(deployment.partitions)
        for record in records_of(deployment, deployment.topic("user-events"), partition)
        for name, value in record.headers
        if name == "aif-dead-letter"
    ]


def no_lag(deployment: Deployment) -> None:
    """Wait until every source record is applied."""
    seen: list[Any] = []

    def none() -> bool:
        seen[:] = asyncio.run(measure(deployment))
        return not any(each.lag for each in seen)

    wait_for(none, 90, lambda: f"lag does not drain: {seen}")


def write_letters(deployment: Deployment, count: int) -> list[str]:
    """Dead letters of user events of which each is fine by now; their coordinates."""
    producer = KafkaProducer(bootstrap_servers=deployment.bootstrap_servers)
    coordinates = []
    for offset in range(count):
        record = _Refused(offset, 1_500_000_000_000, entity_key(offset), user_event(offset, offset, 1_500_000_000_000))
        partition = partition_of(offset, deployment.partitions)
        key, value = dead_letter(record, deployment.topic("user-events"), partition, BadRecord("far_future", "ahead"))
        producer.send(deployment.dead_letters("user-events"), value, key)
        coordinates.append(key.decode())
    producer.close()
    return coordinates


@dataclasses.dataclass
class _Refused(SourceRecord):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def test_tables_that_are_not_there_are_named(tmp_path: Any) -> None:
    """A data folder without tables, and a table that does not exist, are said in one line."""
    for arguments in (["info"], ["get", "users", "1"], ["scan", "items"], ["get", "nothing", "1"]):
        result = CliRunner().invoke(tables.command, [*arguments, "--data-dir", str(tmp_path)])
        assert isinstance(result.exception, BadInput)


@pytest.mark.broker
@pytest.mark.timeout(180)
def test_a_record_made_valid_is_replayed_once(deployment: Deployment) -> None:
    """Refused, listed, shown; with the tolerance raised a replay applies it once, a second sends nothing."""
    create_topics(deployment)
    now_ms = int(time.time() * 1000)
    topic, partition = deployment.topic("user-events"), partition_of(7, deployment.partitions)
    future = user_event(7, 70, now_ms + 3_600_000)
    producer = KafkaProducer(bootstrap_servers=deployment.bootstrap_servers)
    refused_at = producer.send(topic, future, entity_key(7), partition=partition).get(10).offset
    producer.send(topic, user_event(8, 80, now_ms), None, partition=0)
    producer.send(topic, b"no record", entity_key(9), partition=partition_of(9, deployment.partitions))
    producer.close()
    worker = WorkerProcess(deployment)
    with running(worker):
        no_lag(deployment)
        assert worker.stop() == 0
    coordinates = f"{topic}-{partition}-{refused_at}"
    listed = json.loads(aif(dead_letters.command, deployment, "list", "--json"))
    waiting = {"waiting": 1, "replayed": 0}
    assert listed["counts"] == {
        "user-events": {"far_future": waiting, "null_key": waiting, "not_single_object": waiting}
    }
    assert coordinates in {letter["coordinates"] for letter in listed["letters"]}
    shown = json.loads(aif(dead_letters.command, deployment, "show", f"user-events-{partition}-{refused_at}"))
    assert shown["value"]["hex"] == future.hex() and shown["value"]["decoded"]["event_id"] == 70
    assert shown["key"]["id"] == 7 and shown["now"].startswith("would be refused: far_future")

    fixed = dataclasses.replace(deployment, future_tolerance_ms=TWO_HOURS_MS)
    worker = WorkerProcess(deployment, env={"AIF_FUTURE_TOLERANCE_MS": str(TWO_HOURS_MS)})
    with running(worker):
        ends = source_ends(deployment)
        dry = aif(dead_letters.command, deployment, "replay", "user-events", "--dry-run")
        assert "2 would be sent" in dry and "1 cannot be sent again: null key" in dry
        assert source_ends(deployment) == ends
        out = aif(dead_letters.command, deployment, "replay", "user-events", "--reason", "far_future", "--yes")
        assert "user-events: 1 sent again" in out
        assert sent_again(deployment) == [coordinates]
        ends = source_ends(deployment)
        again = aif(dead_letters.command, deployment, "replay", coordinates, "--yes")
        assert "user-events: 0 sent again, 1 were before" in again
        assert source_ends(deployment) == ends
        no_lag(deployment)
        # A store is written after its changelog.
        wait_for(
            lambda: (
                "event_ids" in CliRunner().invoke(tables.command, ["get", "users", "7", *options(deployment)]).output
            ),
            20,
        )
        row = json.loads(aif(tables.command, deployment, "get", "users", "7"))
        assert row["event_ids"] == [70] and len(row["behaviours"]) == 1 and row["windows"]["7d"] == {"click": 1}
        verified(fixed)
    listed = json.loads(aif(dead_letters.command, deployment, "list", "--json"))
    assert listed["counts"]["user-events"]["far_future"] == {"waiting": 0, "replayed": 1}


@pytest.mark.broker
@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", ["sent", "committed"])
def test_a_crash_while_replaying_loses_and_doubles_nothing(deployment: Deployment, step: str) -> None:
    """kill -9 between the records and the marks, or behind both: after a second run each record is there once."""
    create_topics(deployment)
    coordinates = write_letters(deployment, 700)  # two transactions
    crashed = _replay(deployment, "--failpoint", f"kill:{step}:1")
    assert crashed.wait(60) == -signal.SIGKILL
    assert len(sent_again(deployment)) == (0 if step == "sent" else 500)
    assert _replay(deployment).wait(60) == 0
    assert sorted(sent_again(deployment)) == sorted(coordinates)


@pytest.mark.broker
@pytest.mark.timeout(120)
def test_two_replays_at_once_send_each_record_once(deployment: Deployment) -> None:
    """Two replays of the same letters race: whatever each of them says, no record is there twice, and none is lost."""
    create_topics(deployment)
    coordinates = write_letters(deployment, 1_200)
    both = [_replay(deployment), _replay(deployment)]
    assert {each.wait(60) for each in both} <= {0, 69}  # the fenced one ends with an error
    assert _replay(deployment).wait(60) == 0
    assert sorted(sent_again(deployment)) == sorted(coordinates)


def _replay(deployment: Deployment, *more: str) -> Forked:
    arguments = ["dead-letters", "replay", "user-events", "--yes", *more, *options(deployment)]
    return forked_aif(arguments, os.environ, deployment.data_dir / "replay.log")


@pytest.mark.broker
@pytest.mark.timeout(180)
def test_lag_and_tables_beside_a_running_worker(deployment: Deployment) -> None:
    """Lag counts what waits and drains to zero; `tables get` shows the rows of the changelogs while the worker runs."""
    create_topics(deployment)
    traffic = Traffic(deployment, seed=5, items=80, users=40)
    worker = WorkerProcess(deployment)
    try:
        traffic.send(300)
        before = json.loads(aif(lag.command, deployment, "--json"))
        assert before["total"]["lag"] == sum(traffic.sent.values())
        assert (
            before["total"]["without_owner"] == len({table.source for table in TABLES.values()}) * deployment.partitions
        )
        with running(worker):
            no_lag(deployment)
            drained(deployment, worker)  # a store is written after its changelog
            after = json.loads(aif(lag.command, deployment, "--json"))
            assert (after["total"]["lag"], after["total"]["without_owner"]) == (0, 0)
            assert "nobody" not in aif(lag.command, deployment)
            for table in ("users", "items"):
                _rows_are_those_of_the_changelog(deployment, table)
            described = [json.loads(line) for line in aif(tables.command, deployment, "info", "--json").splitlines()]
            assert {each["held_by_pid"] for each in described} == {worker.process.pid}
            assert len(described) == len(TABLES) * deployment.partitions
            traffic.send(300)
            no_lag(deployment)
            verified(deployment)
            assert worker.stop() == 0
        assert "no worker" in aif(tables.command, deployment, "info")
    finally:
        traffic.close()


def _rows_are_those_of_the_changelog(deployment: Deployment, table: str) -> None:
    rows: dict[int, bytes] = {}
    for partition in range(deployment.partitions):
        for record in records_of(deployment, deployment.changelog(table), partition):
            if record.key != WATERMARK_KEY:
                rows[entity_id(record.key)] = record.value
    scanned = [
        json.loads(line)
        for line in aif(tables.command, deployment, "scan", table, "--limit", "0", "--json").splitlines()
    ]
    assert {each["key"] for each in scanned} == set(rows)
    for entity in list(rows)[:5]:
        shown = json.loads(aif(tables.command, deployment, "get", table, str(entity), "--full"))
        assert shown == readable_row(table, rows[entity], deployment.data_dir, full=True)
    result = CliRunner().invoke(tables.command, ["get", table, "no such id", *options(deployment)])
    assert isinstance(result.exception, BadInput) and str(hashed_id("no such id")) in str(result.exception)
