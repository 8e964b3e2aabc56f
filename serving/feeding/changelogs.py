"""What the broker says of the topics that serving follows: whether they are there, which they are, how they compact."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError

from schemas.deployment import Deployment
from schemas.errors import Unavailable

__all__ = ["FollowedTopic", "followed_topics"]

_ANSWER_MS: Final = 5_000
_COMPACTED_AFTER: Final = "delete.retention.ms"
_DEFAULT_MS: Final = 86_400_000


class FollowedTopic(NamedTuple):
    """A topic on the broker."""

    topic_id: int  #: the head of its id (KIP-516): one that was made anew has another
    partitions: int
    delete_retention_ms: int  #: for how long a deletion stays readable behind compaction


def followed_topics(deployment: Deployment, names: Iterable[str]) -> dict[str, FollowedTopic]:
    """The topics of these names on the broker. Raises Unavailable where one is not there or nobody answers. Blocks."""
    names = sorted(names)
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=deployment.bootstrap_servers,
            bootstrap_timeout_ms=_ANSWER_MS,
            request_timeout_ms=_ANSWER_MS,
        )
        try:
            # All topics: asking for one by name may create it.
            found = {topic["name"]: topic for topic in admin.describe_topics()}
            if absent := [name for name in names if name not in found]:
                raise Unavailable(f"topics {', '.join(absent)} do not exist yet: `aif topics create` makes them")
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
            described = admin.describe_configs(resources, config_filter="all")
        finally:
            admin.close()
    except KafkaError as error:
        raise OSError(f"the broker does not describe its topics: {type(error).__name__}: {error}") from error
    configs = described.get("topic", described.get("TOPIC", {}))
    return {name: _topic(found[name], configs.get(name, {})) for name in names}


def _topic(described: dict[str, Any], configs: dict[str, Any]) -> FollowedTopic:
    head = uuid.UUID(str(described["topic_id"])).bytes[:8]
    kept = configs.get(_COMPACTED_AFTER, {}).get("value", _DEFAULT_MS)
    return FollowedTopic(int.from_bytes(head, "big", signed=True), len(described["partitions"]), int(kept))
