"""Source topics that were deleted and made again."""

from __future__ import annotations

import signal

import pytest
from fleet import Traffic, WorkerProcess, drained, recreate, running, verified

from schemas.deployment import Deployment

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


def test_tables_of_a_recreated_topic_are_kept_until_told_and_then_made_anew(
    deployment: Deployment, traffic: Traffic
) -> None:
    """A worker refuses a topic that is another log; told to, it empties the tables and they equal the new log."""
    worker = WorkerProcess(deployment)
    with running(worker):
        traffic.send(400)
        drained(deployment, worker)
        assert worker.stop() == 0
        for name in ("item-updates", "user-events"):
            recreate(deployment, name)
        other = Traffic(deployment, seed=99)  # other users and items: rows of the old log must go, not linger
        other.send(60)
        worker.start()
        assert worker.process.wait(60) == 70
        assert "--reset-recreated" in worker.log_tail(100)
        worker.start("--reset-recreated", "--failpoint", "kill:committed:3")  # a crash halfway through the emptying
        assert worker.process.wait(60) == -signal.SIGKILL
        worker.start("--reset-recreated")
        drained(deployment, worker)
        report = verified(deployment)
        assert report.rows["users"] < 100
        other.send(60)
        drained(deployment, worker)
        verified(deployment)
        assert worker.stop() == 0
        worker.start()  # without the flag: the tables are the new topic's now
        drained(deployment, worker)
        other.close()
