"""A worker that ends at each step of the write protocol; after the restart the tables equal the log."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from faulty_fold import BATCH, third_batch_raises
from fleet import Traffic, WorkerProcess, drained, running, verified, wait_for
from kafka import KafkaConsumer, TopicPartition

from schemas.deployment import Deployment
from streams.lag import measure

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


@pytest.mark.parametrize("step", ["folded", "sent", "committed", "first_stored", "stored"])
def test_kill_at_each_step(deployment: Deployment, traffic: Traffic, step: str) -> None:
    """kill -9 in the fourth batch at each step, some partitions' transactions open: nothing lost, nothing doubled."""
    worker = WorkerProcess(deployment)
    traffic.send(300)
    with running():
        worker.start("--failpoint", f"kill:{step}:4")
        for _ in range(20):
            traffic.send(50)
            if worker.process.poll() is not None:
                break
        assert worker.process.wait(30) == -signal.SIGKILL
        with running(worker):
            traffic.send(100)
            drained(deployment, worker)
            verified(deployment)


def test_a_worker_frozen_just_before_its_transaction_is_fenced(deployment: Deployment, traffic: Traffic) -> None:
    """SIGSTOP exactly between the last check and the send: when it wakes, others own its partitions and it ends."""
    frozen, other = WorkerProcess(deployment), WorkerProcess(deployment, "worker-1")
    traffic.send(200)
    with running(other):
        other.wait_ready(partitions=6)
        drained(deployment, other)
        with running():
            frozen.start("--failpoint", "stop:folded:2")
            for _ in range(60):
                traffic.send(20)
                time.sleep(0.25)
                if _stopped(frozen):
                    break
            assert _stopped(frozen), frozen.log_tail()
            other.wait_ready(partitions=6)
            traffic.send(200)
            drained(deployment, other)
            frozen.signal(signal.SIGCONT)
            assert frozen.process.wait(60) == 70
            assert "taken this partition over" in frozen.log_tail(200)
            traffic.send(100)
            drained(deployment, other)
            verified(deployment)


def test_an_exception_in_the_third_of_ten_batches_commits_exactly_two(deployment: Deployment, traffic: Traffic) -> None:
    """The fold of batch 3 of 10 raises: committed is that batch's first offset; the restart takes it, none is lost."""
    traffic.send_events(0, 10 * BATCH)
    worker = WorkerProcess(deployment)
    with running():
        worker.start(before=third_batch_raises)
        assert worker.process.wait(60) == 70, worker.log_tail()
        begun = [int(offset) for offset in (deployment.data_dir / "batches").read_text().split()]
        assert begun == [0, BATCH, 2 * BATCH]
        last_line = worker.log_tail(1)
        topic = deployment.topic("user-events")
        assert f"{topic}-0 at offset {2 * BATCH}: ZeroDivisionError: planted in the fold. Nothing of" in last_line
        assert _committed(deployment)[f"{topic}-0"] == 2 * BATCH
        [lag] = [
            each for each in asyncio.run(measure(deployment)) if (each.source, each.partition) == ("user-events", 0)
        ]
        assert (lag.applied, lag.lag) == (2 * BATCH, 8 * BATCH)
        worker.start()
        drained(deployment, worker)
        assert _committed(deployment)[f"{topic}-0"] == 10 * BATCH
        assert verified(deployment).source_records == 10 * BATCH + _records(deployment, "item-activity")
        worker.kill()


def _stopped(worker: WorkerProcess) -> bool:
    with open(f"/proc/{worker.process.pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "T"


def _records(deployment: Deployment, topic: str) -> int:
    consumer = KafkaConsumer(
        bootstrap_servers=deployment.bootstrap_servers, isolation_level="read_committed", consumer_timeout_ms=3_000,
        auto_offset_reset="earliest", group_id=None,
    )  # fmt: skip
    try:
        consumer.assign([TopicPartition(deployment.topic(topic), each) for each in range(deployment.partitions)])
        return sum(1 for _ in consumer)
    finally:
        consumer.close()


def _committed(deployment: Deployment) -> dict[str, int]:
    consumer = KafkaConsumer(bootstrap_servers=deployment.bootstrap_servers, group_id=deployment.group)
    try:
        tps = [
            TopicPartition(deployment.topic(topic), partition)
            for topic in ("item-updates", "user-events")
            for partition in range(deployment.partitions)
        ]
        found = wait_for(lambda: [consumer.committed(tp) for tp in tps], within_s=20)
        return {f"{tp.topic}-{tp.partition}": offset or 0 for tp, offset in zip(tps, found, strict=True)}
    finally:
        consumer.close()
