from __future__ import annotations

from dataclasses import replace

import pytest
from fleet import create_topics
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.topics import all_topics
from streams.destinations import require_destinations


@pytest.mark.broker
def test_topics_as_declared_are_accepted(deployment: Deployment) -> None:
    """Topics made from the table of topics pass."""
    create_topics(deployment)
    require_destinations(deployment)


@pytest.mark.broker
@pytest.mark.parametrize(
    ("broken", "partitions", "cleanup", "sentence"),
    [
        ("users-changelog", 0, "compact", "users-changelog does not exist .* `aif topics create`"),
        ("users-changelog", 1, "compact", "users-changelog has 1 partitions, .* needs 2"),
        ("items-changelog", 2, "delete", "items-changelog has cleanup.policy=delete, the contract says compact"),
        ("user-events.dead-letter", 0, "compact,delete", r"user-events\.dead-letter does not exist"),
        ("item-updates.dead-letter", 2, "compact,delete", r"item-updates\.dead-letter has 2 partitions, .* needs 1"),
        ("model-versions", 0, "delete", "model-versions does not exist"),
    ],
)
def test_a_topic_that_is_not_as_declared_is_named(
    deployment: Deployment, broken: str, partitions: int, cleanup: str, sentence: str
) -> None:
    """A changelog or dead-letter topic that is missing, or was made by the broker itself, is one sentence."""
    admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
    try:
        topics = []
        for topic in all_topics():
            count, policy = (deployment.partitions if topic.partitions == "deployment" else 1), topic.cleanup
            if topic.name == broken:
                count, policy = partitions, cleanup
            if count:
                name = deployment.topic(topic.name)
                topics.append(NewTopic(name, count, 1, topic_configs={"cleanup.policy": policy}))
        admin.create_topics(topics)
        admin.wait_for_topics([topic.name for topic in topics])
    finally:
        admin.close()
    with pytest.raises(BadInput, match=sentence):
        require_destinations(deployment)


def test_a_broker_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker is an Unavailable that names the address, not an error of the Kafka library."""
    monkeypatch.setattr("streams.sources._ANSWER_MS", 300)
    nowhere = replace(Deployment(), bootstrap_servers="127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        require_destinations(nowhere)
