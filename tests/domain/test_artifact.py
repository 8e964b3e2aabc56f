"""An artifact is taken whole and unaltered, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from domain.artifact import (
    HEAD,
    ITEM_TOWER,
    MANIFEST,
    USER_PHASE,
    Dimensions,
    Manifest,
    check_artifact,
    check_fit,
    sha256,
)
from domain.user_row import FINGERPRINT
from schemas.deployment import Deployment
from schemas.errors import ArtifactError

SIZES = Dimensions(
    embedding_dim=64, signature_bits=64, category_buckets=128, item_numeric=4, vector_dim=64, bridges=16, tiers=8,
    tier_groups=(("click",), ("impression", "dislike")), behaviours=32, attention=True, long_behaviours=99,
    cross_categories=4, user_features=56, hidden=(128, 64),
)  # fmt: skip
NAMES = (ITEM_TOWER, USER_PHASE, HEAD)


class Folder(dict[str, bytes]):
    """Files by name; a missing one fails as a disk does."""

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        try:
            return self[name]
        except KeyError:
            raise FileNotFoundError(name) from None


@pytest.fixture
def manifest() -> Manifest:
    """A manifest of a folder that holds each file's own name."""
    return Manifest(
        dimensions=SIZES,
        signature_version="srp-64x64-1",
        window_fingerprint=-5,
        record_stride=SIZES.layout.stride,
        files={name: sha256(name.encode()) for name in NAMES},
        training={"auc": 0.7},
    )


@pytest.fixture
def folder(manifest: Manifest) -> Folder:
    """That folder."""
    return Folder({MANIFEST: manifest.to_json()} | {name: name.encode() for name in NAMES})


def test_a_good_artifact_passes(folder, manifest) -> None:
    """The manifest comes back equal, with the version asked for, whether some or all files are checked."""
    assert check_artifact(folder.read, version=manifest.version) == manifest


def test_the_version_is_the_content(manifest) -> None:
    """Equal manifests have equal versions, any change another; the tag is the same number."""
    assert Manifest.from_json(manifest.to_json()).version == manifest.version
    assert replace(manifest, training={"auc": 0.71}).version != manifest.version
    assert f"{manifest.version_tag:016x}" == manifest.version
    assert len(manifest.version) == 16


def test_a_size_with_a_default_leaves_older_versions_as_they_were(manifest) -> None:
    """Manifests from before a size existed are read with its default and keep their version; another value is kept."""
    older = json.loads(manifest.to_json())
    assert "id_buckets" not in older["dimensions"]
    with_ids = replace(manifest, dimensions=replace(SIZES, id_buckets=512))
    assert with_ids.version != manifest.version
    assert Manifest.from_json(with_ids.to_json()) == with_ids


@pytest.mark.parametrize("name", NAMES)
def test_an_altered_file_is_named(folder, name) -> None:
    """One changed byte of any file is refused, naming the file."""
    folder[name] = folder[name][:-1] + b"!"
    with pytest.raises(ArtifactError, match=name):
        check_artifact(folder.read)


@pytest.mark.parametrize("name", [MANIFEST, *NAMES])
def test_a_missing_file_is_named(folder, name) -> None:
    """A file that cannot be read is an ArtifactError that names it."""
    del folder[name]
    with pytest.raises(ArtifactError, match=name):
        check_artifact(folder.read)


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_leaves_a_part_out_is_refused(folder, name) -> None:
    """An artifact without a tower, a user phase or a head is none, however its checksums fit."""
    manifest = Manifest.from_json(folder[MANIFEST])
    folder[MANIFEST] = replace(manifest, files={k: v for k, v in manifest.files.items() if k != name}).to_json()
    with pytest.raises(ArtifactError, match=f"{name} is not listed"):
        check_artifact(folder.read)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"embedding_dim": 32}, "embedding_dim"),
        ({"signature_bits": 128}, "signature_bits"),
        ({"signature_seed": 1}, "signature_version"),
    ],
)
def test_a_model_of_another_deployment_is_refused_by_what_differs(folder, changes, what) -> None:
    """A deployment with other embeddings or hyperplanes than the model was trained for refuses it by name."""
    manifest = Manifest.from_json(folder[MANIFEST])
    sizes = manifest.dimensions
    ours = Deployment(embedding_dim=sizes.embedding_dim, signature_bits=sizes.signature_bits)
    fitting = replace(manifest, signature_version=ours.signature_version, window_fingerprint=FINGERPRINT)
    check_fit(fitting, ours)
    with pytest.raises(ArtifactError, match=what):
        check_fit(fitting, replace(ours, **changes))
    with pytest.raises(ArtifactError, match="window_fingerprint"):
        check_fit(replace(fitting, window_fingerprint=FINGERPRINT ^ 1), ours)


def test_another_version_is_refused(folder) -> None:
    """The folder of one version does not pass for another."""
    with pytest.raises(ArtifactError, match="version"):
        check_artifact(folder.read, version="0" * 16)


def test_a_reformatted_manifest_is_refused(folder, manifest) -> None:
    """The same content in other bytes has another sha256, which is not what its version says."""
    folder[MANIFEST] = json.dumps(json.loads(folder[MANIFEST])).encode()
    with pytest.raises(ArtifactError, match="altered"):
        check_artifact(folder.read, version=manifest.version)
    with pytest.raises(ArtifactError, match="altered"):
        check_artifact(folder.read)


def test_another_stride_is_refused(folder, manifest) -> None:
    """A record layout that this build would lay out otherwise is refused before any row is read."""
    other = replace(manifest, record_stride=512)
    folder[MANIFEST] = other.to_json()
    with pytest.raises(ArtifactError, match="stride"):
        check_artifact(folder.read, version=other.version)


def test_another_format_is_refused(manifest) -> None:
    """A manifest of a future format says so."""
    content = json.loads(manifest.to_json()) | {"format": 4}
    with pytest.raises(ArtifactError, match="format"):
        Manifest.from_json(json.dumps(content).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"3", b"{}", b'{"format": 1}', b'{"format": 1, "dimensions": 4}', b"\xff\xfe{"],
)
def test_bytes_that_are_no_manifest(data) -> None:
    """Whatever the bytes, the error is an ArtifactError."""
    with pytest.raises(ArtifactError):
        Manifest.from_json(data)


def test_unknown_and_missing_fields_are_refused(manifest) -> None:
    """A manifest with one field more or less is of another build."""
    content = json.loads(manifest.to_json())
    for other in (content | {"new": 1}, {name: value for name, value in content.items() if name != "files"}):
        with pytest.raises(ArtifactError):
            Manifest.from_json(json.dumps(other).encode())
