from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from plain_artifact import DIMENSIONS, plain_artifact

from domain.artifact import HEAD, ITEM_TOWER, MANIFEST, USER_PHASE
from producers.publish import artifact_folder, check_for, list_versions, publish
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
def test_what_is_published_is_listed(deployment: Deployment, tmp_path: Path) -> None:
    """Versions are listed in log order with folder and reason, and bytes that are none are listed as unreadable."""
    create_topics(deployment)
    assert list_versions(deployment) == []
    one, other = plain_artifact(tmp_path / "one"), plain_artifact(tmp_path / "other", training={"seed": 2})
    first = publish(deployment, str(one), published_by="ci", reason="weekly")
    with KafkaProducer(bootstrap_servers=deployment.bootstrap_servers) as producer:
        producer.send(deployment.topic("model-versions"), value=b"junk", key=b"model").get(10)
    second = publish(deployment, str(other))
    listed = list_versions(deployment)
    assert [each.record for each in listed] == [first, None, second]
    assert "not_single_object" in listed[1].problem and [each.offset for each in listed] == [0, 1, 2]
    assert first["uri"] == str(one) and first["version"] != second["version"]


@pytest.mark.broker
def test_a_bad_artifact_never_reaches_the_topic(deployment: Deployment, tmp_path: Path) -> None:
    """A refused artifact leaves the topic as it was."""
    create_topics(deployment)
    folder = plain_artifact(tmp_path / "a")
    (folder / HEAD).write_bytes(b"")
    with pytest.raises(ArtifactError):
        publish(deployment, str(folder))
    assert list_versions(deployment) == []
