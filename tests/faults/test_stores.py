"""Stores that are deleted, damaged or on a full disk; topics that retention or compaction has cut."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified, wait_for
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from schemas.deployment import Deployment
from schemas.errors import BadInput
from streams.checkpoint import Checkpoint
from streams.verification import verify

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


def _stores(deployment: Deployment, pattern: str) -> list[Path]:
    return sorted((deployment.data_dir / "tables").glob(f"*/{pattern}"))


def _delete(folder: Path) -> None:
    shutil.rmtree(folder)


def _truncate(folder: Path) -> None:
    for path in folder.glob("*.sst"):
        os.truncate(path, path.stat().st_size // 2)


def _scramble(folder: Path) -> None:
    for path in folder.glob("*.sst"):
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_delete, _truncate, _scramble])
def test_damaged_stores_are_rebuilt(deployment: Deployment, traffic: Traffic, damage: object) -> None:
    """A store deleted, cut short or with a flipped bit is rebuilt from its changelog, at the latest when read."""
    worker = WorkerProcess(deployment)
    with running(worker):
        traffic.send(800)
        drained(deployment, worker)
        assert worker.stop() == 0
        for folder in _stores(deployment, "users-0.db") + _stores(deployment, "items-1.db"):
            damage(folder)  # type: ignore[operator]
        traffic.send(400)
        worker.start()
        for _ in range(3):  # damage that only reading finds ends the process; its supervisor starts it again
            try:
                drained(deployment, worker, within_s=30)
                break
            except AssertionError:
                assert worker.process.wait(1) == 70, worker.log_tail()
                worker.start()
        stores = verified(deployment).stores or {}
        assert stores["worker-0/users-0.db"] > 1 and stores["worker-0/items-1.db"] > 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 12 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_worker_and_loses_nothing(
    deployment: Deployment, traffic: Traffic, small_disk: Path
) -> None:
    """When the disk is full the worker ends with status 69; with room again the tables equal the log."""
    worker = WorkerProcess(deployment)
    (deployment.data_dir / "tables").symlink_to(small_disk)
    with running(worker):
        worker.wait_ready()
        filler = small_disk / "filler"
        filler.write_bytes(b"")
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(b"x" * 65536)
                    file.flush()
            except OSError:
                pass_on = True
        assert pass_on
        for _ in range(40):
            traffic.send(200)
            if worker.process.poll() is not None:
                break
        assert worker.process.wait(30) == 69, worker.log_tail()
        assert "No space left" in worker.log_tail(100)
        filler.unlink()
        worker.start()
        drained(deployment, worker)
        verified(deployment)


def test_committed_offsets_that_expired_are_not_missed(deployment: Deployment, traffic: Traffic) -> None:
    """The tables themselves say where to go on: without the group's offsets nothing is applied twice or skipped."""
    worker = WorkerProcess(deployment)
    with running(worker):
        traffic.send(500)
        drained(deployment, worker)
        assert worker.stop() == 0
        admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
        admin.delete_groups([deployment.group])
        admin.close()
        traffic.send(300)
        worker.start()
        drained(deployment, worker)
        verified(deployment)


def test_records_deleted_before_they_were_applied_are_not_stepped_over(
    deployment: Deployment, traffic: Traffic
) -> None:
    """When retention has eaten unapplied records the worker refuses to go on, and says what happened."""
    worker = WorkerProcess(deployment)
    with running(worker):
        traffic.send(200)
        drained(deployment, worker)
        assert worker.stop() == 0
        traffic.send(400)
        admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
        admin.delete_records({TopicPartition(deployment.topic("user-events"), 0): -1})
        admin.close()
        worker.start()
        assert worker.process.wait(60) == 70
        assert "retention has deleted records never applied" in worker.log_tail(100)


def test_a_compacted_changelog_restores_the_same_tables(deployment: Deployment, traffic: Traffic) -> None:
    """After compaction has left gaps in the changelogs, an empty disk is filled with the same tables."""
    admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
    eager = {
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "200",
        "min.compaction.lag.ms": "0",
    }
    admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, deployment.changelog(table), {**eager, "cleanup.policy": "compact"})
         for table in ("items", "users")]
    )  # fmt: skip
    admin.close()
    first, second = WorkerProcess(deployment), WorkerProcess(deployment, "elsewhere")
    with running(first):
        for _ in range(6):
            traffic.send(200)
            drained(deployment, first)
            time.sleep(0.5)

        def compacted() -> bool:
            traffic.send(5)
            return _first_rows(deployment) is False

        wait_for(compacted, 90, lambda: "the broker compacted nothing")
        drained(deployment, first)
        first.kill()
        with running(second):
            drained(deployment, second)
            verified(deployment)


def _first_rows(deployment: Deployment) -> bool:
    """Whether the users changelog still holds every record from offset 0 on."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(bootstrap_servers=deployment.bootstrap_servers, isolation_level="read_committed")
    tp = TopicPartition(deployment.changelog("users"), 0)
    consumer.assign([tp])
    consumer.seek_to_beginning(tp)
    offsets: list[int] = []
    while len(offsets) < 100:
        offsets += [record.offset for record in consumer.poll(2000).get(tp, [])]
    consumer.close()
    return offsets[50] < 60


def test_verification_goes_on_from_its_checkpoint_when_retention_has_cut_the_log(
    deployment: Deployment, traffic: Traffic
) -> None:
    """Applied records that retention deletes are covered by the last checkpoint; without one verify refuses."""
    worker = WorkerProcess(deployment)
    checkpoint = Checkpoint()
    with running(worker):
        traffic.send(300)
        drained(deployment, worker)
        assert asyncio.run(verify(deployment, lambda where, count: None, checkpoint)).equal
        admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
        admin.delete_records({TopicPartition(deployment.topic("user-events"), 0): 50})
        admin.close()
        traffic.send(200)
        drained(deployment, worker)
        report = asyncio.run(verify(deployment, lambda where, count: None, checkpoint))
        assert report.equal, report
        assert report.horizon.keys() == {"user-events-0"}
        with pytest.raises(BadInput, match="no checkpoint"):
            asyncio.run(verify(deployment, lambda where, count: None))
