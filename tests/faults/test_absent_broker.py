"""A broker that is gone for longer than anybody waits."""

from __future__ import annotations

import os
import signal
import time

import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified

from schemas.deployment import Deployment

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


def test_a_worker_gives_up_after_its_budget_and_loses_nothing(
    broker: object, deployment: Deployment, traffic: Traffic
) -> None:
    """With records in hand and no broker for longer than the budget the worker ends with 69; nothing is lost."""
    worker = WorkerProcess(deployment)
    with running():
        worker.start("--broker-budget", "5", "--failpoint", "stop:folded:6")
        worker.wait_ready()
        for _ in range(40):
            traffic.send(20)
            time.sleep(0.2)
            if _stopped(worker):
                break
        assert _stopped(worker), worker.log_tail()
        os.kill(broker.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        try:
            worker.signal(signal.SIGCONT)
            assert worker.process.wait(60) == 69, worker.log_tail()
            assert "took no batch" in worker.log_tail(100)
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)  # type: ignore[attr-defined]
        worker.start()
        drained(deployment, worker)
        verified(deployment)
        worker.kill()


def test_sigterm_ends_a_worker_whose_broker_is_gone(broker: object, deployment: Deployment, traffic: Traffic) -> None:
    """An orderly stop without a broker takes less than twenty seconds: nobody has to kill -9."""
    worker = WorkerProcess(deployment)
    with running(worker):
        worker.wait_ready()
        traffic.send(200)
        drained(deployment, worker)
        os.kill(broker.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        try:
            began = time.monotonic()
            worker.process.terminate()
            worker.process.wait(20)
            assert time.monotonic() - began < 20
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)  # type: ignore[attr-defined]
        worker.start()
        traffic.send(100)
        drained(deployment, worker)
        verified(deployment)


def _stopped(worker: WorkerProcess) -> bool:
    with open(f"/proc/{worker.process.pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "T"
