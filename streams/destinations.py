"""What the broker says of the topics that a worker writes, before it starts.

A changelog that is missing must not come into being by itself: where the broker creates topics on first use, it would
have the broker's partition count and clean-up policy, and retention would delete rows that the tables need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType

from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.topics import TABLES, Topic, all_topics
from streams.sources import asking

__all__ = ["require_destinations"]


def require_destinations(deployment: Deployment) -> None:
    """Every changelog and dead-letter topic exists, and so does model-versions, with declared partitions and clean-up.

    Raises BadInput naming the topic and what to do, Unavailable where the broker does not answer.
    """
    sources = {table.source for table in TABLES.values()}  # sources.py looks after those
    topics = {deployment.topic(topic.name): topic for topic in all_topics() if topic.name not in sources}
    with asking(deployment.bootstrap_servers, "how its topics are kept") as admin:
        found = {each["name"]: each for each in admin.describe_topics(list(topics)) if not each["error_code"]}
        policies = _cleanup_policies(admin, [name for name in topics if name in found])
    for name, topic in topics.items():
        partitions = len(found[name]["partitions"]) if name in found else 0
        _check(deployment, name, topic, partitions, policies)


def _cleanup_policies(admin: Any, names: list[str]) -> Mapping[str, str]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    described = admin.describe_configs(resources, config_filter="all") if resources else {}
    configs = described.get("topic", described.get("TOPIC", {}))
    return {name: str(configs[name]["cleanup.policy"]["value"]) for name in names}


def _check(deployment: Deployment, name: str, topic: Topic, partitions: int, policies: Mapping[str, str]) -> None:
    if not partitions:
        raise BadInput(f"topic {name} does not exist at {deployment.bootstrap_servers}: run `aif topics create`")
    wanted = 1 if topic.partitions == 1 else deployment.partitions
    if partitions != wanted:
        raise BadInput(
            f"topic {name} has {partitions} partitions, a worker of this deployment needs {wanted}: where it holds "
            "nothing, delete it and run `aif topics create`; else use another --prefix"
        )
    if set(policies[name].split(",")) != set(topic.cleanup.split(",")):
        raise BadInput(
            f"topic {name} has cleanup.policy={policies[name]}, the contract says {topic.cleanup}: alter the topic"
        )
