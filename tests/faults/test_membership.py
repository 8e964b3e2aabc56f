"""Standbys, static membership and orderly stops: partitions move or stay, and nothing waits for long."""

from __future__ import annotations

import time

import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified, wait_for

from schemas.deployment import Deployment

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


def test_a_standby_takes_over_without_restoring(deployment: Deployment, traffic: Traffic) -> None:
    """With a standby the new owner of a killed worker's partitions has their rows already, and they equal the log."""
    first, second = WorkerProcess(deployment), WorkerProcess(deployment, "worker-1")
    with running():
        for worker in (first, second):
            worker.start("--standby-replicas", "1")
        second.wait_ready(partitions=3)
        traffic.send(1_500)
        drained(deployment, first, second)

        def warm() -> bool:
            health = second.health()
            return bool(health and len(health["standbys"]) == 3 and _behind(health) == 0)

        wait_for(warm, 30, lambda: f"standbys do not catch up: {second.health()}")
        time.sleep(1)
        first.kill()
        second.wait_ready(partitions=6)
        taken_over = [line for line in second.log_tail(200).splitlines() if " ready: " in line]
        restored = [int(line.split(" ready: ")[1].split()[0]) for line in taken_over]
        assert len(restored) >= 6
        assert all(rows < 100 for rows in restored), taken_over
        traffic.send(300)
        drained(deployment, second)
        verified(deployment)
        second.kill()


def test_a_restart_with_an_instance_id_moves_no_partition(deployment: Deployment, traffic: Traffic) -> None:
    """With static membership a worker that restarts within its session gets its partitions back without a rebalance."""
    first = WorkerProcess(deployment, session_s=20)
    second = WorkerProcess(deployment, "worker-1", session_s=20)
    with running():
        first.start("--instance-id", "pod-0")
        second.start("--instance-id", "pod-1")
        second.wait_ready(partitions=3)
        first.wait_ready(partitions=3)
        traffic.send(400)
        drained(deployment, first, second)
        before = second.log_tail(500).count(" ready: ")
        first.kill()
        first.start("--instance-id", "pod-0")
        first.wait_ready(partitions=3)
        traffic.send(400)
        drained(deployment, first, second)
        assert second.log_tail(500).count(" ready: ") == before
        verified(deployment)
        first.kill()
        second.kill()


def test_a_stop_takes_less_than_ten_seconds_under_load(deployment: Deployment, traffic: Traffic) -> None:
    """SIGTERM in the middle of a backlog ends the worker in good order, and the next one goes on where it stopped."""
    worker = WorkerProcess(deployment)
    traffic.send(3_000)
    with running(worker):
        worker.wait_ready()
        traffic.send(500)
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 10
        worker.start()
        drained(deployment, worker)
        verified(deployment)


def _behind(health: dict[str, object]) -> int:
    standbys = health["standbys"]
    assert isinstance(standbys, list)
    return sum(each["rows_behind"] for each in standbys)
