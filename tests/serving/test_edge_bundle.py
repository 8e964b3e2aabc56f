from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from domain.artifact import HEAD, MANIFEST, sha256
from schemas.errors import ArtifactError, BadInput
from serving.edge_bundle import EDGE, Bundle, read_bundle, write_bundle
from tests.serving.conftest import Artifact, n2o_records


@pytest.fixture
def bundle(make_artifact: Callable[..., Artifact]) -> Bundle:
    """Thirty items, given in no order."""
    artifact = make_artifact(1)
    ids = np.random.default_rng(0).permutation(30) - 5
    records = n2o_records(artifact.manifest.version_tag, ids.tolist())
    return Bundle.of(artifact.folder, artifact.manifest, records, [f"item {each}" for each in ids.tolist()])


@pytest.fixture
def path(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle in a file."""
    write_bundle(tmp_path / "bundle.aif", bundle)
    return tmp_path / "bundle.aif"


def _altered(path: Path, name: str, data: bytes | None) -> Path:
    """The bundle with a member replaced, or left out, its checksums as they were."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist() if each != name}
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in {**members, **({} if data is None else {name: data})}.items():
            archive.writestr(each, content)
    return path


def test_a_bundle_reads_as_it_was_written(bundle: Bundle, path: Path, tmp_path: Path) -> None:
    """Rows come back by item id with their titles; equal contents are equal bytes, and nothing is left beside them."""
    found = read_bundle(path)
    assert (found.manifest, found.user_phase, found.head) == (bundle.manifest, bundle.user_phase, bundle.head)
    assert found.records["item_id"].tolist() == list(range(-5, 25))
    assert found.records.tobytes() == bundle.records.tobytes()
    assert not bundle.records.view(np.uint8).reshape(30, -1)[:, -8:].any(), "padding is zeros"
    assert found.titles == [f"item {each}" for each in range(-5, 25)]
    write_bundle(tmp_path / "again.aif", found)
    assert (tmp_path / "again.aif").read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_copy_that_broke_off_is_refused(share: float, path: Path) -> None:
    """However much of the file is there, a truncated one is refused by name."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    # head.npz is a zip itself: where its end is the last that is left, the file looks like another archive.
    with pytest.raises(ArtifactError, match=r"bundle\.aif (cannot be read as an|is no) edge bundle"):
        read_bundle(path)


def test_flipped_bits_are_never_scored_with(path: Path) -> None:
    """One flipped bit anywhere in the contents is found; the refusal is an ArtifactError wherever it falls."""
    data, random = path.read_bytes(), np.random.default_rng(1)
    whole = read_bundle(path)
    for at in random.integers(0, len(data), 200).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        try:
            found = read_bundle(path)
        except ArtifactError:
            continue
        # What is left are fields of the zip format that say nothing of the contents, such as dates.
        assert found.records.tobytes() == whole.records.tobytes() and found.head == whole.head


def test_altered_members_are_named(path: Path) -> None:
    """A member that was replaced or left out is named, also where its own zip checksum is right."""
    with pytest.raises(ArtifactError, match=r"rows\.npy is not what"):
        read_bundle(_altered(path, "rows.npy", None))
    with pytest.raises(ArtifactError, match=rf"{HEAD} is not what {EDGE} says"):
        read_bundle(_altered(path, HEAD, b"another head"))


def test_a_bundle_of_another_build_is_refused(path: Path) -> None:
    """Another format, a manifest of another format, and a zip of something else each say what to do."""
    with zipfile.ZipFile(path) as archive:
        edge = json.loads(archive.read(EDGE))
        manifest = json.loads(archive.read(MANIFEST))
    for change, what in (
        ({**edge, "format": 0}, "format 0, this build reads"),
        ({**edge, "files": {}}, "lacks head.npz, manifest.json"),
        ([], "no readable edge.json"),
    ):
        with pytest.raises(ArtifactError, match=what):
            read_bundle(_altered(path, EDGE, json.dumps(change).encode()))
    old = json.dumps({**manifest, "format": 1}).encode()

    _altered(path, MANIFEST, old)
    with pytest.raises(ArtifactError, match="format"):
        read_bundle(
            _altered(path, EDGE, json.dumps({**edge, "files": {**edge["files"], MANIFEST: sha256(old)}}).encode())
        )
    with pytest.raises(ArtifactError, match=r"nothing\.aif"):
        read_bundle(path.with_name("nothing.aif"))


def test_only_rows_of_the_model_are_bundled(make_artifact: Callable[..., Artifact], path: Path) -> None:
    """Rows of another version, and no rows at all, are refused, as is a place that cannot be written."""
    artifact = make_artifact(2)
    with pytest.raises(BadInput, match="2 rows are of another version"):
        Bundle.of(artifact.folder, artifact.manifest, n2o_records(7, [1, 2]), ["a", "b"])
    with pytest.raises(BadInput, match="at least one item"):
        Bundle.of(artifact.folder, artifact.manifest, n2o_records(7, []), [])
    with pytest.raises(BadInput, match="cannot be written"):
        write_bundle(path / "below" / "a.aif", read_bundle(path))
