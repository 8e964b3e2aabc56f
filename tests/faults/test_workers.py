"""Workers that crash, freeze, come and go under load; after each, the tables equal the log and the lag is gone."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified, wait_for

from schemas.deployment import Deployment

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]


def test_kill_at_random_moments_loses_and_doubles_nothing(deployment: Deployment, traffic: Traffic) -> None:
    """24 kill -9 at random moments under load, same disk: no difference to the log.

    Every fourth hits a worker that starts or restores, the others one that has applied records since it started.
    """
    random = np.random.default_rng(1)
    worker = WorkerProcess(deployment)
    with running(), traffic.flowing():
        worker.start("--instance-id", "pod-0")
        for number in range(24):
            if number % 4:
                before = _applied_when_ready(worker)
                wait_for(lambda before=before: _applied(worker) > before, 30, worker.log_tail)
            time.sleep(float(random.uniform(0.0, 0.7)))
            worker.kill()
            worker.start("--instance-id", "pod-0")
    drained(deployment, worker)
    report = verified(deployment)
    worker.kill()
    assert report.rows["users"] > 100
    assert report.refused_records > 0


def test_partitions_that_move_between_workers_lose_nothing(deployment: Deployment, traffic: Traffic) -> None:
    """A second worker joins and leaves four times with a backlog: orderly rebalances, no difference to the log."""
    first, second = WorkerProcess(deployment), WorkerProcess(deployment, "worker-1")
    with running(first):
        first.wait_ready()
        for _ in range(4):
            traffic.send(600)
            second.start()
            second.wait_ready(partitions=3)
            traffic.send(600)
            assert second.stop() == 0
        drained(deployment, first)
        verified(deployment)


def test_a_worker_frozen_at_random_moments_past_its_session_is_fenced(deployment: Deployment, traffic: Traffic) -> None:
    """SIGSTOP six times at random moments under load until others own its partitions: woken, it harms nothing.

    Where it still had a batch in hand it ends itself with 70; then it is started again, as its supervisor would.
    """
    random = np.random.default_rng(3)
    frozen, other = WorkerProcess(deployment), WorkerProcess(deployment, "worker-1")
    fenced = 0
    with running(frozen, other):
        with traffic.flowing():
            for _ in range(6):
                fenced += _sharing(frozen, other)
                time.sleep(float(random.uniform(0.0, 1.0)))
                frozen.signal(signal.SIGSTOP)
                other.wait_ready(partitions=6)
                time.sleep(float(random.uniform(0.0, 0.5)))
                frozen.signal(signal.SIGCONT)
            fenced += _sharing(frozen, other)
        drained(deployment, frozen, other)
        verified(deployment)
    assert fenced > 0


def test_a_lost_disk_is_rebuilt_from_the_changelogs(deployment: Deployment, traffic: Traffic) -> None:
    """A worker that starts with an empty folder after a kill has the same tables, and serves on from there."""
    first, second = WorkerProcess(deployment), WorkerProcess(deployment, "elsewhere")
    with running(first):
        first.wait_ready()
        traffic.send(1_000)
        drained(deployment, first)
        first.kill()
        traffic.send(300)
        with running(second):
            drained(deployment, second)
            verified(deployment)


def _applied(worker: WorkerProcess) -> int:
    """Source records that its tables reflect now."""
    return sum(entry["next_offset"] or 0 for entry in (worker.health() or {"partitions": []})["partitions"])


def _applied_when_ready(worker: WorkerProcess) -> int:
    """Source records that its tables reflect when it becomes ready."""
    return sum(entry["next_offset"] for entry in worker.wait_ready()["partitions"])


def _sharing(frozen: WorkerProcess, other: WorkerProcess) -> int:
    """Wait until each has half of the partitions, starting the first again where it ended itself; how often it did."""
    ended = 0

    def shared() -> bool:
        nonlocal ended
        if frozen.process.poll() is not None:
            assert frozen.process.returncode == 70, frozen.log_tail()
            assert "taken this partition over" in frozen.log_tail(), frozen.log_tail()
            frozen.start()
            ended += 1
        found = frozen.health(), other.health()
        return all(health and health["ready"] and len(health["partitions"]) == 3 for health in found)

    wait_for(shared, 60, lambda: f"{frozen.log_tail()}\n{other.log_tail()}")
    return ended
