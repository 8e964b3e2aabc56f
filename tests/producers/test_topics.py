from __future__ import annotations

import dataclasses

import pytest
from kafka.admin import KafkaAdminClient

from producers.topics import create_topics, described, require_topics, topic_configs, topic_states
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.topics import TOPICS, all_topics


def test_configs_follow_the_table() -> None:
    """Clean-up, retention and timestamps are the table's; three replicas need two in sync; compression is open."""
    for topic in all_topics():
        configs = topic_configs(Deployment(), topic)
        assert configs["cleanup.policy"] == topic.cleanup and configs["message.timestamp.type"] == topic.timestamps
        assert configs["retention.ms"] == str(-1 if topic.retention_ms is None else topic.retention_ms)
        assert "compression.type" not in configs and "min.insync.replicas" not in configs
        assert ("min.compaction.lag.ms" in configs) is ("compact" in topic.cleanup)
    wide = topic_configs(Deployment(replication_factor=3), TOPICS["user-events"])
    assert wide["min.insync.replicas"] == "2"


def test_what_a_source_record_becomes_fits() -> None:
    """Changelogs and dead letters take records that are larger than the largest of any source topic."""
    limits = {topic.name: int(topic_configs(Deployment(), topic)["max.message.bytes"]) for topic in all_topics()}
    sources = [limits.pop(name) for name in TOPICS]
    assert min(limits.values()) > 2 * max(sources)


@pytest.mark.broker
def test_creating_twice_changes_nothing(deployment: Deployment) -> None:
    """The first time makes every topic as declared, the second finds them and makes none."""
    made = create_topics(deployment)
    assert len(made) == len(all_topics()) and all(made.values())
    before = topic_states(deployment)
    assert not any(create_topics(deployment).values())
    assert topic_states(deployment) == before
    for state in before:
        assert state.partitions == (1 if state.topic.partitions == 1 else deployment.partitions)
        wanted = topic_configs(deployment, state.topic)
        assert {key: state.configs[key] for key in wanted} == wanted


@pytest.mark.broker
def test_differences_are_refused(deployment: Deployment) -> None:
    """Another partition count, or a topic made by hand with another clean-up policy, is one sentence."""
    with KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers) as admin:
        admin.create_topics({deployment.topic("user-events"): {"num_partitions": 2, "replication_factor": 1}})
        admin.wait_for_topics([deployment.topic("user-events")])
    with pytest.raises(BadInput, match=r"user-events has message\.timestamp\.type=CreateTime"):
        create_topics(deployment)
    with pytest.raises(BadInput, match="has 2 partitions, this deployment says 3"):
        create_topics(dataclasses.replace(deployment, partitions=3))


@pytest.mark.broker
def test_missing_topics_say_how_to_make_them(deployment: Deployment) -> None:
    """A command that needs a topic names it and the command that makes it."""
    with pytest.raises(BadInput, match="aif topics create"):
        require_topics(deployment, "user-events")
    create_topics(deployment)
    assert require_topics(deployment, "user-events")["user-events"].topic_id
    assert described(deployment, ["user-events"])["user-events"]["exists"] is True
    with pytest.raises(BadInput, match="no topic is named 'clicks'"):
        described(deployment, ["clicks"])
