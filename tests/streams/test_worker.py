"""A real worker on a real broker, in good weather."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from fleet import Traffic, WorkerProcess, create_topics, drained, running, verified
from forked import aif, faust
from kafka import KafkaAdminClient

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import WATERMARK_KEY
from streams.topology import WorkerSettings

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

FAUST = [str(Path(sys.executable).parent / "faust"), "-A", "streams.worker"]


def test_tables_equal_the_log_and_the_loop_stays_responsive(deployment: Deployment) -> None:
    """Thousands of records under load: tables equal the log, and nothing holds the loop as long as a heartbeat."""
    create_topics(deployment)
    traffic = Traffic(deployment, seed=1)
    worker = WorkerProcess(deployment)
    with running(worker):
        traffic.send(3_000)
        drained(deployment, worker)
        report = verified(deployment)
        assert report.source_records >= 6_000
        assert report.source_records == worker.metric("aif_source_records_total")
        assert report.refused_records == worker.metric("aif_dead_letters_total") > 0
        assert 0 < worker.metric("aif_loop_block_longest_seconds") < 1.5
        assert worker.stop() == 0
    traffic.close()


def test_verify_finds_an_injected_difference(deployment: Deployment) -> None:
    """A user row altered behind the worker's back is a difference, and `aif verify` ends with status 1."""
    create_topics(deployment)
    traffic = Traffic(deployment, seed=2)
    worker = WorkerProcess(deployment)
    with running(worker):
        traffic.send(100)
        drained(deployment, worker)
        assert worker.stop() == 0
    traffic.close()
    assert _verify_status(deployment) == 0
    asyncio.run(_alter_a_user(deployment))
    assert _verify_status(deployment) == 1


def test_fausts_own_command_line_runs_the_same_worker(deployment: Deployment) -> None:
    """`faust -A streams.worker worker` is `aif worker`: same settings and log, records applied, stopped in order."""
    create_topics(deployment)
    traffic = Traffic(deployment, seed=3)
    traffic.send(50)
    traffic.close()
    worker = WorkerProcess(deployment)
    environment = {
        **worker._environment(), "AIF_WORKER_WEB_PORT": str(worker.port), "AIF_WORKER_NAME": "other",
        "AIF_WORKER_SESSION_TIMEOUT_S": "7.5", "AIF_WORKER_INSTANCE_ID": f"{deployment.prefix}pod",
    }  # fmt: skip
    worker._process = faust(["-A", "streams.worker", "worker", "-l", "warn"], environment, worker.log, worker.log)
    try:
        drained(deployment, worker)
        verified(deployment)
        health = worker.health()
        assert health is not None and health["worker"] == "other"
        assert (deployment.data_dir / "tables" / "other" / "lock").exists()
        assert list(_members(deployment)) == [f"{deployment.prefix}pod"]
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
    assert "INFO streams.topology: worker other stopped: everything in hand is committed" in worker.log_tail()


def test_fausts_other_commands_take_nothing(tmp_path: Path) -> None:
    """`faust -A streams.worker agents` lists the agents without a broker, a folder or a lock."""
    environment = {**os.environ, "AIF_BOOTSTRAP_SERVERS": "127.0.0.1:1", "AIF_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run([*FAUST, "agents"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "item_updates" in done.stdout and "user_events" in done.stdout
    assert not (tmp_path / "data").exists()


def test_errors_on_fausts_command_line_are_one_line(deployment: Deployment, tmp_path: Path) -> None:
    """A wrong setting, a broker that is away or a missing topic ends Faust's worker with one line and the status."""
    wrong = {
        ("AIF_WORKER_WEB_PORT", "http"): (2, "AIF_WORKER_WEB_PORT='http' is not int"),
        ("AIF_PARTITIONS", "0"): (2, "AIF_PARTITIONS must be a number of at least 1"),
        ("AIF_BOOTSTRAP_SERVERS", "127.0.0.1:1"): (69, "no broker answers at 127.0.0.1:1"),
        ("AIF_PREFIX", "nobodys-"): (2, "run `aif topics create`"),
    }
    settings = WorkerProcess(deployment)._environment()
    words, output = ["-A", "streams.worker", "worker"], tmp_path / "output.txt"
    started = {  # at once: one of them waits for its broker
        (name, value): faust(words, {**settings, name: value}, output, tmp_path / f"{name}.txt")
        for name, value in wrong
    }
    for (name, value), (status, sentence) in wrong.items():
        ended, said = started[name, value].wait(60), (tmp_path / f"{name}.txt").read_text()
        assert ended == status, said
        assert sentence in said and len(said.strip().splitlines()) == 1


def test_settings_come_from_the_environment() -> None:
    """Every setting has its variable, an option that was given wins, and a wrong value names the variable."""
    env = {
        "AIF_WORKER_NAME": "w", "AIF_WORKER_WEB_HOST": "::1", "AIF_WORKER_WEB_PORT": "7000",
        "AIF_WORKER_SESSION_TIMEOUT_S": "9.5", "AIF_WORKER_INSTANCE_ID": "pod-0", "AIF_WORKER_STANDBY_REPLICAS": "1",
        "AIF_WORKER_BROKER_BUDGET_S": "30", "AIF_WORKER_RESET_RECREATED": "true", "AIF_WORKER_FAILPOINT": "kill:sent:1",
        "AIF_WORKER_REBUILD_ITEMS_PER_S": "5000",
    }  # fmt: skip
    settings = WorkerSettings.from_env({**env, "AIF_PREFIX": "not a worker's"}, web_port=7001, web_host=None)
    assert settings == WorkerSettings("w", "::1", 7001, 9.5, "pod-0", 1, 30.0, True, 5_000.0, "kill:sent:1")
    assert WorkerSettings.from_env({}) == WorkerSettings()
    assert {name.removeprefix("AIF_WORKER_").lower() for name in env} == {each.name for each in fields(WorkerSettings)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NAME", ""), ("NAME", "../other"), ("WEB_PORT", "0"), ("WEB_PORT", "x"), ("SESSION_TIMEOUT_S", "nan"),
        ("SESSION_TIMEOUT_S", "0"), ("STANDBY_REPLICAS", "-1"), ("STANDBY_REPLICAS", "1.5"),
        ("RESET_RECREATED", "maybe"), ("REBUILD_ITEMS_PER_S", "-1"),
    ],
)  # fmt: skip
def test_a_wrong_setting_names_its_variable(name: str, value: str) -> None:
    """A value that no worker can run with is refused before anything starts."""
    with pytest.raises(BadInput, match=f"AIF_WORKER_{name}"):
        WorkerSettings.from_env({f"AIF_WORKER_{name}": value})


@pytest.mark.parametrize("partitions", [1, 3])
def test_another_partition_count_than_the_topics_is_refused(deployment: Deployment, partitions: int) -> None:
    """A worker configured for other partitions than the topics have ends at once with a sentence that says which."""
    create_topics(deployment)
    worker = WorkerProcess(replace(deployment, partitions=partitions))
    with running(worker):
        assert worker.process.wait(60) == 2
        assert "has 2 partitions, this worker is configured for" in worker.log_tail()


def test_missing_topics_are_named(deployment: Deployment) -> None:
    """Without topics a worker says what to run."""
    worker = WorkerProcess(deployment)
    with running(worker):
        assert worker.process.wait(60) == 2
        assert "aif topics create" in worker.log_tail()


def _members(deployment: Deployment) -> Iterator[str]:
    """Instance ids of the members of the deployment's consumer group."""
    admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
    try:
        for group in admin.describe_groups([deployment.group]).values():
            yield from (member["group_instance_id"] for member in group["members"])
    finally:
        admin.close()


def _verify_status(deployment: Deployment) -> int:
    return aif(["verify"], WorkerProcess(deployment)._environment(), deployment.data_dir / "verify.log").wait(60)


async def _alter_a_user(deployment: Deployment) -> None:
    """Commit one wrong user row, and the same watermark again, the way a broken worker would."""
    tp = TopicPartition(deployment.changelog("users"), 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=deployment.bootstrap_servers, isolation_level="read_committed")
    await consumer.start()
    consumer.assign([tp])
    await consumer.seek_to_beginning(tp)
    rows: dict[bytes, bytes] = {}
    end = (await consumer.end_offsets([tp]))[tp]
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=500)).values():
            rows |= {record.key: record.value for record in records}
    await consumer.stop()
    mark = rows.pop(WATERMARK_KEY)
    key, value = next(iter(rows.items()))
    head = codec("user_head").decode(value)
    head["newest_event_time_ms"] += 1
    producer = AIOKafkaProducer(bootstrap_servers=deployment.bootstrap_servers, transactional_id=f"{tp.topic}-test")
    await producer.start()
    async with producer.transaction():
        await producer.send(tp.topic, codec("user_head").encode(head), key=key, partition=0)
        await producer.send(tp.topic, mark, key=WATERMARK_KEY, partition=0)
    await producer.stop()
