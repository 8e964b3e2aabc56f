"""A real worker on a real broker, in good weather."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from fleet import Traffic, WorkerProcess, create_topics, drained, running, verified

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import WATERMARK_KEY

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


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
    """`faust -A streams.worker worker` applies records and answers /readyz like `aif worker`."""
    create_topics(deployment)
    traffic = Traffic(deployment, seed=3)
    traffic.send(50)
    traffic.close()
    worker = WorkerProcess(deployment)
    command = [str(Path(sys.executable).parent / "faust"), "-A", "streams.worker", "worker", "-l", "warn"]
    environment = {**worker._environment(), "AIF_WORKER_WEB_PORT": str(worker.port)}
    with worker.log.open("wb") as log, running():
        worker._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            drained(deployment, worker)
            verified(deployment)
        finally:
            worker.stop()


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


def _verify_status(deployment: Deployment) -> int:
    settings = WorkerProcess(deployment)._environment()
    command = [sys.executable, "-c", "from cli.main import main; main()", "verify"]
    return subprocess.run(command, env=settings, check=False, capture_output=True).returncode


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
