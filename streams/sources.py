"""What the broker says of the source topics before the worker starts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable

__all__ = ["source_topic_ids"]


def source_topic_ids(deployment: Deployment, topics: Iterable[str]) -> dict[str, int]:
    """The head of each topic's id (KIP-516) as int64: a re-created topic has another.

    Raises Unavailable where no broker answers within 10 s, BadInput where a topic is missing or has another partition
    count than the deployment.
    """
    try:
        admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers, bootstrap_timeout_ms=8_000)
    except KafkaError as error:
        raise Unavailable(
            f"no broker answers at {deployment.bootstrap_servers} ({type(error).__name__}): start one with "
            "`aif broker start`, or say where yours is with --bootstrap-servers"
        ) from error
    try:
        described = {topic["name"]: topic for topic in admin.describe_topics(list(topics))}
    finally:
        admin.close()
    return {name: _topic_id(name, described.get(name), deployment) for name in topics}


def _topic_id(name: str, described: dict[str, object] | None, deployment: Deployment) -> int:
    if described is None or described["error_code"]:
        raise BadInput(f"topic {name} does not exist at {deployment.bootstrap_servers}: run `aif topics create`")
    partitions = described["partitions"]
    assert isinstance(partitions, list)
    if len(partitions) != deployment.partitions:
        raise BadInput(
            f"topic {name} has {len(partitions)} partitions, this worker is configured for {deployment.partitions}: "
            "set AIF_PARTITIONS (--partitions) to the topic's"
        )
    topic_id = described["topic_id"]
    return int.from_bytes(uuid.UUID(str(topic_id)).bytes[:8], "big", signed=True)
