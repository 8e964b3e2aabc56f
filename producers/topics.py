"""Creates the topics of a deployment and checks those that exist against schemas/topics.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from producers.connection import admin_client, unavailable
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.topics import TOPICS, Topic, all_topics

__all__ = [
    "TopicState",
    "create_topics",
    "described",
    "require_topics",
    "topic_configs",
    "topic_partitions",
    "topic_states",
]

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
#: Of a source topic: what Kafka itself takes by default, said here so that no broker's setting changes it.
_SOURCE_BYTES: Final = 2**20 + 12
#: Of changelogs and dead letters. A row or letter made of a source record is a little larger than the record, and
#: the limits are on compressed bytes: a sender that compresses better than a worker must not get it stuck.
_DERIVED_BYTES: Final = 4 * 2**20
#: Settings that are part of a topic's contract: another value means another meaning, not another tuning.
_CONTRACT: Final = ("cleanup.policy", "message.timestamp.type")


@dataclass(frozen=True)
class TopicState:
    """A topic as the broker has it; `partitions` is 0 and `topic_id` empty where it does not exist."""

    topic: Topic
    name: str
    partitions: int
    topic_id: str
    configs: Mapping[str, str]


def topic_partitions(deployment: Deployment, topic: Topic) -> int:
    """How many partitions the topic has in this deployment."""
    return 1 if topic.partitions == 1 else deployment.partitions


def topic_configs(deployment: Deployment, topic: Topic) -> dict[str, str]:
    """The settings that a topic is created with. Compression is left to the producers.

    Compaction: segments close after an hour, records stay readable for ten minutes before they may be compacted and at
    most a day until they are; a deletion stays for a week, which is how long a reader's own copy may be behind.

    What is made of a source record always fits where it goes: changelogs and dead letters take larger records.
    """
    configs = {
        "max.message.bytes": str(_SOURCE_BYTES if topic.name in TOPICS else _DERIVED_BYTES),
        "cleanup.policy": topic.cleanup,
        "message.timestamp.type": topic.timestamps,
        "retention.ms": str(-1 if topic.retention_ms is None else topic.retention_ms),
    }
    if "compact" in topic.cleanup:
        configs |= {
            "segment.bytes": str(128 * 2**20),
            "segment.ms": str(_HOUR_MS),
            "min.cleanable.dirty.ratio": "0.3",
            "min.compaction.lag.ms": str(_HOUR_MS // 6),
            "max.compaction.lag.ms": str(_DAY_MS),
            "delete.retention.ms": str(7 * _DAY_MS),
        }
    elif topic.retention_ms is not None:
        # Retention drops whole segments: a day each keeps it within a day of its word.
        configs |= {"segment.bytes": str(256 * 2**20), "segment.ms": str(_DAY_MS)}
    if deployment.replication_factor >= 3:
        configs["min.insync.replicas"] = "2"
    return configs


def create_topics(deployment: Deployment) -> dict[str, bool]:
    """Make what is missing; topic name -> whether it was made now. Waits until all have leaders.

    Raises BadInput where an existing topic has another partition count, clean-up policy or timestamp type, and
    Unavailable where the broker does not answer.
    """
    with admin_client(deployment) as admin:
        states = _states(admin, deployment)
        missing = [state.topic for state in states if not state.partitions]
        for state in states:
            if state.partitions:
                _verify(deployment, state)
        if missing:
            _create(admin, deployment, missing)
        admin.wait_for_topics([state.name for state in states])
    return {state.name: state.topic in missing for state in states}


def topic_states(deployment: Deployment) -> list[TopicState]:
    """Every topic of the deployment as the broker has it. Raises Unavailable."""
    with admin_client(deployment) as admin:
        return _states(admin, deployment)


def require_topics(deployment: Deployment, *names: str) -> dict[str, TopicState]:
    """The named topics, which must exist as declared. Raises BadInput saying how to make them, or Unavailable."""
    states = {state.topic.name: state for state in topic_states(deployment)}
    for name in names:
        if not states[name].partitions:
            raise BadInput(f"topic {deployment.topic(name)} does not exist: run `aif topics create`")
        _verify(deployment, states[name])
    return {name: states[name] for name in names}


def described(deployment: Deployment, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Contract and broker settings of the named topics (all where none is), by name without prefix, for people.

    Raises BadInput on a name that is no topic of ours, and Unavailable.
    """
    states = {state.topic.name: state for state in topic_states(deployment)}
    for name in names:
        if name not in states:
            raise BadInput(f"no topic is named {name!r}: use one of {', '.join(states)}")
    return {
        name: {
            "on_broker": state.name,
            "exists": state.partitions > 0,
            "partitions": state.partitions or topic_partitions(deployment, state.topic),
            "topic_id": state.topic_id,
            **{key: getattr(state.topic, key) for key in ("key", "schema", "writers", "readers", "promise")},
            "configs": {
                key: state.configs.get(key, wanted) for key, wanted in topic_configs(deployment, state.topic).items()
            },
        }
        for name, state in states.items()
        if not names or name in names
    }


def _create(admin: Any, deployment: Deployment, topics: list[Topic]) -> None:
    wanted = {
        deployment.topic(topic.name): {
            "num_partitions": topic_partitions(deployment, topic),
            "replication_factor": deployment.replication_factor,
            "configs": topic_configs(deployment, topic),
        }
        for topic in topics
    }
    try:
        admin.create_topics(wanted)
    except TopicAlreadyExistsError:
        # Another process was faster; both make the same.
        return
    except KafkaError as error:
        raise unavailable(deployment, error) from error


def _states(admin: Any, deployment: Deployment) -> list[TopicState]:
    topics = {deployment.topic(topic.name): topic for topic in all_topics()}
    found = {entry["name"]: entry for entry in admin.describe_topics(list(topics)) if entry["error_code"] == 0}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
    described = admin.describe_configs(resources, config_filter="all") if resources else {}
    configs = described.get("topic", described.get("TOPIC", {}))
    return [
        TopicState(
            topic,
            name,
            len(found[name]["partitions"]) if name in found else 0,
            str(found[name].get("topic_id", "")) if name in found else "",
            {key: str(entry["value"]) for key, entry in configs.get(name, {}).items()},
        )
        for name, topic in topics.items()
    ]


def _verify(deployment: Deployment, state: TopicState) -> None:
    wanted = topic_partitions(deployment, state.topic)
    if state.partitions != wanted:
        raise BadInput(
            f"topic {state.name} has {state.partitions} partitions, this deployment says {wanted}: "
            "set AIF_PARTITIONS (or --partitions) to what exists, or use another --prefix"
        )
    configs = topic_configs(deployment, state.topic)
    for key in _CONTRACT:
        found = state.configs.get(key, configs[key])
        if set(found.split(",")) != set(configs[key].split(",")):
            raise BadInput(f"topic {state.name} has {key}={found}, the contract says {configs[key]}: alter the topic")
