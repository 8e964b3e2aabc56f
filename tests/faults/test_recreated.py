"""Source topics that were deleted and made again."""

from __future__ import annotations

import time

import pytest
from fleet import Traffic, WorkerProcess, drained, running, verified, wait_for
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

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
            _recreate(deployment, name)
        other = Traffic(deployment, seed=99)  # other users and items: rows of the old log must go, not linger
        other.send(60)
        worker.start()
        assert worker.process.wait(60) == 70
        assert "--reset-recreated" in worker.log_tail(100)
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


def _recreate(deployment: Deployment, name: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
    topic = deployment.topic(name)
    admin.delete_topics([topic])

    def made() -> bool:
        try:
            configs = {"message.timestamp.type": "LogAppendTime"}
            admin.create_topics([NewTopic(topic, deployment.partitions, 1, topic_configs=configs)])
        except TopicAlreadyExistsError:  # deletion is not finished
            return False
        return True

    wait_for(made, 30)
    time.sleep(0.5)
    admin.close()
