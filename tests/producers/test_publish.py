from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from kafka import KafkaProducer
from plain_artifact import DIMENSIONS, digest_of, plain_artifact

from domain.artifact import HEAD, ITEM_TOWER, MANIFEST, USER_PHASE
from domain.rollout import Terms
from producers.publish import (
    artifact_folder,
    check_for,
    pause,
    promote,
    publish,
    resume,
    retire,
    rollback,
    who,
)  # fmt: skip
from producers.rollout_view import commands
from producers.topics import create_topics
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, BadInput


@pytest.mark.parametrize("name", [ITEM_TOWER, USER_PHASE, HEAD, MANIFEST])
def test_every_file_is_checked(tmp_path: Path, name: str) -> None:
    """One altered byte or one missing file, whichever it is, keeps an artifact from being offered."""
    folder = plain_artifact(tmp_path / "a")
    assert check_for(Deployment(), folder).version_tag
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-3] + b"x" + data[-2:])
    with pytest.raises(ArtifactError, match=name):
        check_for(Deployment(), folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        check_for(Deployment(), folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dimensions": replace(DIMENSIONS, embedding_dim=32)}, "embedding_dim 32"),
        ({"signature_version": "srp-64x64-1"}, "signature_version srp-64x64-1"),
        ({"window_fingerprint": 7}, "window_fingerprint 7"),
    ],
)
def test_an_artifact_for_other_settings_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    """Sizes, hyperplanes or windows other than the deployment's are named."""
    with pytest.raises(ArtifactError, match=named):
        check_for(Deployment(), plain_artifact(tmp_path / "a", **changes))


def test_artifacts_are_found_by_path_or_version(tmp_path: Path) -> None:
    """A folder is taken as it is, a version is looked up in the data folder, anything else is named."""
    deployment = Deployment(data_dir=tmp_path)
    stored = plain_artifact(tmp_path / "artifacts" / "0123456789abcdef")
    assert artifact_folder(deployment, "0123456789abcdef") == artifact_folder(deployment, str(stored)) == stored
    with pytest.raises(BadInput, match="gone"):
        artifact_folder(deployment, "gone")


@pytest.mark.broker
def test_a_bad_artifact_never_reaches_the_topic(deployment: Deployment, tmp_path: Path) -> None:
    """A refused artifact leaves the topic as it was."""
    create_topics(deployment)
    folder = plain_artifact(tmp_path / "a")
    (folder / HEAD).write_bytes(b"")
    with pytest.raises(ArtifactError):
        publish(deployment, str(folder))
    assert commands(deployment) == []


@pytest.mark.broker
def test_what_is_asked_for_is_in_the_log(deployment: Deployment, tmp_path: Path) -> None:
    """Each command is a record with its version, terms, user and reason, at the offset that its sender is told."""
    create_topics(deployment)
    terms = Terms(gate=0.9, auto=False, shadow_s=600, min_overlap=0.5, retain_s=60)
    first = publish(deployment, str(plain_artifact(tmp_path / "a")), terms, published_by="ci", reason="weekly")
    with KafkaProducer(bootstrap_servers=deployment.bootstrap_servers) as producer:
        producer.send(deployment.topic("model-versions"), value=b"junk", key=b"model").get(10)
    further = [ask(deployment, first.version, reason="because") for ask in (promote, pause, resume, retire, rollback)]
    further.append(rollback(deployment))
    listed = commands(deployment)
    assert [each.offset for each in listed] == [0, 1, *(sent.offset for sent in further)] == list(range(8))
    assert [each.record for each in listed] == [first.record, None, *(sent.record for sent in further)]
    assert "not_single_object" in listed[1].problem
    assert (
        first.record | {"gate": 0.9, "auto": False, "shadow_s": 600, "min_overlap": 0.5, "retain_s": 60} == first.record
    )
    assert (first.record["published_by"], first.record["reason"]) == ("ci", "weekly")
    assert [sent.record["command"] for sent in further] == [
        "promote", "pause", "resume", "retire", "rollback", "rollback",
    ]  # fmt: skip
    assert {sent.record["published_by"] for sent in further} == {who()} and "@" in who()
    assert further[-1].version == "" and further[0].version == first.version


@pytest.mark.broker
def test_an_artifact_is_published_from_a_url(deployment: Deployment, tmp_path: Path) -> None:
    """What stands at a URL is checked here before it is offered under that URL; a bad or missing one is not offered."""
    create_topics(deployment)
    memory, folder = fsspec.filesystem("memory"), plain_artifact(tmp_path / "a")
    memory.put(str(folder), "/weekly", recursive=True)
    sent = publish(deployment, "memory://weekly/")
    assert sent.record["uri"] == "memory://weekly" and sent.record["manifest_sha256"] == digest_of(folder)
    other = plain_artifact(tmp_path / "b", training={"seed": 2})
    (other / HEAD).write_bytes(b"")
    memory.put(str(other), "/bad", recursive=True)
    for place, says in (("memory://bad", "head.npz has sha256"), ("memory://nowhere", "no artifact at")):
        with pytest.raises(ArtifactError, match=says):
            publish(deployment, place)
    assert len(commands(deployment)) == 1
