"""From one worker to three and back, under load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified

from schemas.deployment import Deployment

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


@pytest.fixture
def deployment(deployment: Deployment) -> Deployment:
    """Three partitions of each topic: work for three workers."""
    return replace(deployment, partitions=3)


def test_one_to_three_workers_and_back(deployment: Deployment, traffic: Traffic) -> None:
    """Workers join while others still restore, and leave again: every partition is applied exactly once throughout."""
    first = WorkerProcess(deployment)
    others = [WorkerProcess(deployment, f"worker-{number}") for number in (1, 2)]
    traffic.send(1_000)
    with running(first):
        first.wait_ready(partitions=9)
        traffic.send(500)
        with running(*others):  # both join at once: the second rebalance interrupts the first's take-overs
            traffic.send(500)
            for worker in (first, *others):
                worker.wait_ready(partitions=3)
            traffic.send(500)
            drained(deployment, first, *others)
            for worker in others:
                assert worker.stop() == 0
        first.wait_ready(partitions=9)
        traffic.send(300)
        drained(deployment, first)
        verified(deployment)
