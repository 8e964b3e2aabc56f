"""Workers that crash, freeze, come and go under load; after each, the tables equal the log and the lag is gone."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified

from schemas.deployment import Deployment

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]


def test_kill_at_random_moments_loses_and_doubles_nothing(deployment: Deployment, traffic: Traffic) -> None:
    """Eight kill -9 at random moments under load, same disk: no difference to the log."""
    random = np.random.default_rng(1)
    worker = WorkerProcess(deployment)
    with running(worker):
        for _ in range(8):
            traffic.send(400)
            time.sleep(float(random.uniform(0.5, 4)))
            worker.kill()
            worker.start()
        traffic.send(400)
        drained(deployment, worker)
        report = verified(deployment)
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


def test_a_worker_frozen_past_its_session_is_fenced(deployment: Deployment, traffic: Traffic) -> None:
    """A worker stopped by SIGSTOP until others own its partitions, then woken, ends itself and harms nothing."""
    first, second = WorkerProcess(deployment), WorkerProcess(deployment, "worker-1")
    with running(first, second):
        second.wait_ready(partitions=3)
        traffic.send(1_500)
        first.signal(signal.SIGSTOP)
        second.wait_ready(partitions=6)
        traffic.send(500)
        drained(deployment, second)
        first.signal(signal.SIGCONT)
        traffic.send(500)
        time.sleep(3)
        drained(deployment, first, second)
        verified(deployment)


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
