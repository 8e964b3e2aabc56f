"""A broker that crashes, stops answering for a while, or is slow."""

from __future__ import annotations

import os
import signal
import time

import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified

from schemas.deployment import Deployment

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]


def test_broker_killed_five_times_loses_nothing(broker: object, deployment: Deployment, traffic: Traffic) -> None:
    """kill -9 of the broker five times under load: the worker goes on or is started again, and no update is lost."""
    worker = WorkerProcess(deployment)
    with running(worker):
        worker.wait_ready()
        for _ in range(5):
            traffic.send(300)
            broker.kill()  # type: ignore[attr-defined]
            time.sleep(1)
            broker.start()  # type: ignore[attr-defined]
            traffic.send(100)
            _supervise(worker)
        for _ in range(60):
            _supervise(worker)
            try:
                drained(deployment, worker, within_s=2)
                break
            except AssertionError:
                continue
        drained(deployment, worker, within_s=5)
        verified(deployment)


def test_a_broker_that_stalls_delays_and_loses_nothing(
    broker: object, deployment: Deployment, traffic: Traffic
) -> None:
    """A broker frozen again and again for longer than any flush waits delays acknowledgements, and loses no batch."""
    worker = WorkerProcess(deployment, session_s=20)
    with running(worker):
        worker.wait_ready()
        for _ in range(4):
            traffic.send(300)
            os.kill(broker.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
            time.sleep(3)
            os.kill(broker.process.pid, signal.SIGCONT)  # type: ignore[attr-defined]
        _supervise(worker)
        drained(deployment, worker, within_s=90)
        verified(deployment)


def _supervise(worker: WorkerProcess) -> None:
    """What systemd would do."""
    status = worker.process.poll()
    if status is not None:
        assert status in (69, 70), f"{status}: {worker.log_tail()}"
        worker.start()
