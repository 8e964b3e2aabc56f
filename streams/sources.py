"""What the broker says of topics: that they are there, and which ones they are, beside their names."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable

__all__ = ["asking", "source_topic_ids", "topic_ids"]

_ANSWER_MS: Final = 8_000


def source_topic_ids(deployment: Deployment, topics: Iterable[str]) -> dict[str, int]:
    """As `topic_ids`; BadInput also where a topic has another partition count than the deployment."""
    described = _described(deployment.bootstrap_servers, list(topics))
    for name, topic in described.items():
        if len(topic["partitions"]) != deployment.partitions:
            raise BadInput(
                f"topic {name} has {len(topic['partitions'])} partitions, this worker is configured for "
                f"{deployment.partitions}: set AIF_PARTITIONS (--partitions) to the topic's"
            )
    return {name: _id(topic) for name, topic in described.items()}


def topic_ids(bootstrap_servers: str, topics: Iterable[str]) -> dict[str, int]:
    """The head of each topic's id (KIP-516) as int64: a re-created topic has another.

    Raises Unavailable where no broker answers within 10 s, BadInput where a topic is missing.
    """
    return {name: _id(topic) for name, topic in _described(bootstrap_servers, list(topics)).items()}


@contextmanager
def asking(bootstrap_servers: str, what: str) -> Iterator[KafkaAdminClient]:
    """A client that asks the broker about topics and groups. Raises Unavailable where it answers not, or not that."""
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap_servers, bootstrap_timeout_ms=_ANSWER_MS, request_timeout_ms=_ANSWER_MS
        )
    except KafkaError as error:
        raise Unavailable(
            f"no broker answers at {bootstrap_servers} ({type(error).__name__}): start one with "
            "`aif broker start`, or say where yours is with --bootstrap-servers"
        ) from error
    try:
        yield admin
    except KafkaError as error:
        raise Unavailable(
            f"the broker at {bootstrap_servers} does not say {what} ({type(error).__name__}: {error}): try again"
        ) from error
    finally:
        admin.close()


def _described(bootstrap_servers: str, topics: list[str]) -> dict[str, dict[str, Any]]:
    with asking(bootstrap_servers, "which topics it has") as admin:
        found = {topic["name"]: topic for topic in admin.describe_topics(topics) if not topic["error_code"]}
    if absent := [name for name in topics if name not in found]:
        raise BadInput(f"topic {', '.join(absent)} does not exist at {bootstrap_servers}: run `aif topics create`")
    return {name: found[name] for name in topics}


def _id(described: dict[str, Any]) -> int:
    return int.from_bytes(uuid.UUID(str(described["topic_id"])).bytes[:8], "big", signed=True)
