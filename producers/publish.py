"""Operators' commands on topic model-versions: offering an artifact to the fleet, and what to do with a version.

A command is a request. The coordinator decides on each once, in log order, and says what it decided on topic `rollout`
(rollout_view.py reads it). An artifact is checked here in full before anybody hears of it, by the same rules as every
worker and server that will load it: a bad one never reaches the topic through this module.
"""

from __future__ import annotations

import getpass
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from kafka.errors import KafkaError

from domain.artifact import Manifest, check_artifact, check_fit, sha256
from domain.rollout import Terms
from producers.connection import close_producer, producer_client, unavailable
from producers.topics import require_topics
from schemas.artifact_cache import artifacts_folder, local_artifact, published_manifest
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import hashed_id
from schemas.records import ModelVersion

__all__ = [
    "KEY",
    "Sent",
    "artifact_folder",
    "check_for",
    "pause",
    "promote",
    "publish",
    "resume",
    "retire",
    "rollback",
    "who",
]

#: The constant key of model-versions.
KEY: Final = b"model"

_TOPIC: Final = "model-versions"
_ACK_WITHIN_S: Final = 30.0


@dataclass(frozen=True)
class Sent:
    """A command that the broker has acknowledged: its place in model-versions, by which its decision is found."""

    offset: int
    record: ModelVersion

    @property
    def version(self) -> str:
        """The version that it names."""
        return self.record["version"]


def who() -> str:
    """This user on this machine, for the log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"  # no account for this user id, as in many containers
    return f"{user}@{socket.gethostname()}"


def artifact_folder(deployment: Deployment, artifact: str) -> Path:
    """The folder of an artifact given as a path, or as the version of one in the data folder. Raises BadInput."""
    stored = artifacts_folder(deployment.data_dir) / artifact
    for folder in (Path(artifact), stored):
        if folder.is_dir():
            return folder.resolve()
    raise BadInput(f"no artifact at {artifact} or {stored}: give a folder, a URL, or a version that `aif train` wrote")


def check_for(deployment: Deployment, folder: Path) -> Manifest:
    """Check all files of an artifact, and that it fits this build and deployment. Raises ArtifactError."""
    manifest = check_artifact(lambda name: (folder / name).read_bytes())
    check_fit(manifest, deployment)
    return manifest


def publish(
    deployment: Deployment, artifact: str, terms: Terms | None = None, *, published_by: str = "", reason: str = ""
) -> Sent:
    """Offer an artifact to the fleet: a folder, the version of one in the data folder, or a URL that fsspec reads.

    What stands at a URL is fetched into this machine's data folder and checked there. Raises BadInput or ArtifactError
    where it must not be offered, Unavailable where its place or the broker does not answer.
    """
    if urlsplit(artifact).scheme:
        uri, digest = artifact.rstrip("/"), sha256(published_manifest(artifact))
        folder = local_artifact(uri, digest[:16], digest, deployment.data_dir, check_artifact)
    else:
        folder = artifact_folder(deployment, artifact)
        uri = str(folder)
    manifest = check_for(deployment, folder)
    return _send(
        deployment, "publish", manifest.version, published_by, reason,
        uri=uri, digest=sha256(manifest.to_json()), terms=terms or Terms(),
    )  # fmt: skip


def promote(deployment: Deployment, version: str, *, published_by: str = "", reason: str = "") -> Sent:
    """Ask for a covered version to go live now. Raises BadInput, Unavailable."""
    return _send(deployment, "promote", version, published_by, reason)


def rollback(deployment: Deployment, version: str = "", *, published_by: str = "", reason: str = "") -> Sent:
    """Ask for the retained version to answer again instead of the live one, which is `version` where it is named.

    Raises BadInput, Unavailable.
    """
    return _send(deployment, "rollback", version, published_by, reason)


def pause(deployment: Deployment, version: str, *, published_by: str = "", reason: str = "") -> Sent:
    """Ask for a version on its way to go no further by itself. Raises BadInput, Unavailable."""
    return _send(deployment, "pause", version, published_by, reason)


def resume(deployment: Deployment, version: str, *, published_by: str = "", reason: str = "") -> Sent:
    """Ask for a paused version to go on. Raises BadInput, Unavailable."""
    return _send(deployment, "resume", version, published_by, reason)


def retire(deployment: Deployment, version: str, *, published_by: str = "", reason: str = "") -> Sent:
    """Ask for a version that is not live to be given up, and its slot with it. Raises BadInput, Unavailable."""
    return _send(deployment, "retire", version, published_by, reason)


def _send(
    deployment: Deployment,
    command: Literal["publish", "promote", "rollback", "pause", "resume", "retire"],
    version: str,
    published_by: str,
    reason: str,
    *,
    uri: str = "",
    digest: str = "",
    terms: Terms | None = None,
) -> Sent:
    require_topics(deployment, _TOPIC)
    now_ms, terms = int(time.time() * 1000), terms or Terms()
    record: ModelVersion = {
        "event_id": hashed_id(f"{command}:{version}:{now_ms}"),
        "event_time_ms": now_ms,
        "version": version,
        "manifest_sha256": digest,
        "uri": uri,
        "published_by": published_by or who(),
        "reason": reason,
        "command": command,
        "gate": terms.gate,
        "auto": terms.auto,
        "shadow_s": terms.shadow_s,
        "min_overlap": terms.min_overlap,
        "retain_s": terms.retain_s,
    }
    producer = producer_client(deployment)
    try:
        value = codec("model_version").encode(record)
        sent = producer.send(deployment.topic(_TOPIC), value=value, key=KEY, partition=0).get(_ACK_WITHIN_S)
    except KafkaError as error:
        raise unavailable(deployment, error) from error
    finally:
        close_producer(producer)
    return Sent(int(sent.offset), record)
