"""Model versions on their topic: offering an artifact to the fleet, and reading what was offered.

An artifact is checked here in full before anybody hears of it, by the same rules as every worker and server that will
load it: a bad one never reaches the topic through this module.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from domain.artifact import Manifest, check_artifact, check_fit, sha256
from producers.connection import close_producer, consumer_client, producer_client, unavailable
from producers.topics import require_topics
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, DecodeError, Unavailable
from schemas.ids import hashed_id
from schemas.records import ModelVersion

__all__ = ["KEY", "Offered", "artifact_folder", "check_for", "list_versions", "publish"]

#: The constant key of model-versions.
KEY: Final = b"model"

_TOPIC: Final = "model-versions"
_ACK_WITHIN_S: Final = 30.0
_READ_WITHIN_S: Final = 10.0


@dataclass(frozen=True)
class Offered:
    """A record of model-versions: what it says, or why it cannot be read."""

    offset: int
    append_time_ms: int
    record: ModelVersion | None
    problem: str = ""


def artifact_folder(deployment: Deployment, artifact: str) -> Path:
    """The folder of an artifact given as a path, or as the version of one in the data folder. Raises BadInput."""
    stored = deployment.data_dir / "artifacts" / artifact
    for folder in (Path(artifact), stored):
        if folder.is_dir():
            return folder.resolve()
    raise BadInput(f"no artifact at {artifact} or {stored}: give a folder, or a version that `aif train` wrote")


def check_for(deployment: Deployment, folder: Path) -> Manifest:
    """Check all files of an artifact, and that it fits this build and deployment. Raises ArtifactError."""
    manifest = check_artifact(lambda name: (folder / name).read_bytes())
    check_fit(manifest, deployment)
    return manifest


def publish(deployment: Deployment, artifact: str, *, published_by: str = "", reason: str = "") -> ModelVersion:
    """Offer an artifact to the fleet and return the record, which the broker has acknowledged.

    Raises BadInput or ArtifactError where it must not be offered, Unavailable where the broker does not take it.
    """
    folder = artifact_folder(deployment, artifact)
    manifest = check_for(deployment, folder)
    require_topics(deployment, _TOPIC)
    now_ms = int(time.time() * 1000)
    record: ModelVersion = {
        "event_id": hashed_id(f"{manifest.version}:{now_ms}"),
        "event_time_ms": now_ms,
        "version": manifest.version,
        "manifest_sha256": sha256(manifest.to_json()),
        "uri": str(folder),
        "published_by": published_by,
        "reason": reason,
        "command": "publish",
        "gate": 0.999,
        "auto": True,
        "shadow_s": 0,
        "min_overlap": 0.0,
        "retain_s": 86_400,
    }
    producer = producer_client(deployment)
    try:
        value = codec("model_version").encode(record)
        producer.send(deployment.topic(_TOPIC), value=value, key=KEY, partition=0).get(_ACK_WITHIN_S)
    except KafkaError as error:
        raise unavailable(deployment, error) from error
    finally:
        close_producer(producer)
    return record


def list_versions(deployment: Deployment) -> list[Offered]:
    """Everything on model-versions in log order, unreadable records with the reason. Raises BadInput, Unavailable."""
    require_topics(deployment, _TOPIC)
    partition = TopicPartition(deployment.topic(_TOPIC), 0)
    found: list[Offered] = []
    with consumer_client(deployment) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        deadline_s = time.monotonic() + _READ_WITHIN_S
        while consumer.position(partition) < end:
            messages = consumer.poll(timeout_ms=500).get(partition, [])
            found.extend(_offered(message.offset, message.timestamp, message.value) for message in messages)
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{partition.topic} was not read to offset {end} within {_READ_WITHIN_S:.0f} s")
    return found


def _offered(offset: int, append_time_ms: int, value: bytes | None) -> Offered:
    try:
        record: ModelVersion = codec("model_version").decode(value)  # type: ignore[assignment]
    except DecodeError as error:
        return Offered(offset, append_time_ms, None, str(error))
    return Offered(offset, append_time_ms, record)
