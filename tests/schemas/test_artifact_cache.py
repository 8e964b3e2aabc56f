"""Artifacts on this machine: fetched once, checked always, whole or not there."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import fsspec
import pytest
from artifact_source import Source, check

from schemas.artifact_cache import artifacts_folder, local_artifact, published_manifest
from schemas.errors import ArtifactError, Unavailable


@pytest.fixture(params=["path", "file", "memory"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """The same artifact as a path, as a file: URI whose path has a space, and in an object store."""
    folder = tmp_path / "a b"
    if request.param == "memory":
        yield Source("memory://models/night")
        fsspec.filesystem("memory").store.clear()
        return
    yield Source(str(folder), folder.as_uri() if request.param == "file" else "")


def left(data_dir: Path) -> list[str]:
    """What is in the cache besides locks and notes of use."""
    return sorted(path.name for path in artifacts_folder(data_dir).iterdir() if path.suffix not in (".lock", ".copy"))


def test_an_artifact_is_copied_whole_and_outlives_its_source(source: Source, tmp_path: Path) -> None:
    """Whatever the kind of place, the copy holds every file, and is what everybody gets once the place is gone."""
    folder = source.here(tmp_path / "data")
    assert folder == tmp_path / "data" / "artifacts" / source.version
    assert sorted(path.name for path in folder.iterdir()) == ["head", "manifest.json", "tower"]
    source.vanish()
    assert source.here(tmp_path / "data") == folder


def test_a_damaged_copy_is_fetched_again(source: Source, tmp_path: Path) -> None:
    """One altered byte, a missing file or an empty folder: the next one to ask gets the artifact as published."""
    folder = source.here(tmp_path)
    for damage in (lambda: (folder / "head").write_bytes(b"weighty"), (folder / "tower").unlink, lambda: empty(folder)):
        damage()
        assert (source.here(tmp_path) / "head").read_bytes() == b"weights"
        assert (folder / "tower").read_bytes() == b"weights"
    assert left(tmp_path) == [source.version]


def empty(folder: Path) -> None:
    """The folder is there and holds nothing."""
    shutil.rmtree(folder)
    folder.mkdir()


def test_a_bad_source_leaves_nothing_behind(source: Source, tmp_path: Path) -> None:
    """An altered, incomplete or vanished source is an ArtifactError that names it, and no copy appears."""
    source.files.pipe_file(f"{source.root}/head", b"weighty")
    with pytest.raises(ArtifactError, match=r"artifact .*: head is corrupted"):
        source.here(tmp_path)
    source.files.rm_file(f"{source.root}/head")
    with pytest.raises(ArtifactError, match="cannot be read"):
        source.here(tmp_path)
    source.vanish()
    with pytest.raises(ArtifactError, match="cannot be read"):
        source.here(tmp_path)
    assert left(tmp_path) == []


def test_a_place_says_which_artifact_it_holds(source: Source) -> None:
    """The manifest's bytes name what is at a place; where nothing is, that is an ArtifactError that names the place."""
    assert sha256(published_manifest(source.uri)).hexdigest() == source.digest
    source.vanish()
    with pytest.raises(ArtifactError, match="no artifact at"):
        published_manifest(source.uri)


def test_the_whole_digest_counts(source: Source, tmp_path: Path) -> None:
    """A manifest with the published version as its head and another digest behind it is refused, cached or not."""
    other = source.digest[:16] + "0" * 48
    for _ in range(2):
        with pytest.raises(ArtifactError, match="was published"):
            local_artifact(source.uri, source.version, other, tmp_path, check)
        source.here(tmp_path)


def test_an_artifact_that_is_published_from_the_cache_is_used_as_it_is(tmp_path: Path) -> None:
    """What training wrote into the data folder is not copied; damaged there, it is refused and left for people."""
    made = Source(str(tmp_path / "elsewhere"))
    stored = artifacts_folder(tmp_path) / made.version
    shutil.copytree(made.uri, stored)
    assert local_artifact(str(stored), made.version, made.digest, tmp_path, check) == stored
    (stored / "head").write_bytes(b"weighty")
    with pytest.raises(ArtifactError, match="head is corrupted"):
        local_artifact(str(stored), made.version, made.digest, tmp_path, check)
    assert (stored / "head").read_bytes() == b"weighty"


@pytest.mark.parametrize("version", ["../../elsewhere00", "", "0123456789ABCDEF", "0123456789abcde"])
def test_only_a_version_names_a_folder(version: str, tmp_path: Path) -> None:
    """A version that is not 16 hex digits, whoever announced it, touches no file."""
    with pytest.raises(ArtifactError, match="16 hex digits"):
        local_artifact("memory://models", version, "", tmp_path, check)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_writes_nowhere_else(tmp_path: Path) -> None:
    """A manifest that lists a file outside of its folder is refused before anything is read or written there."""
    source = Source(str(tmp_path / "a"), names=("../escaped",))
    with pytest.raises(ArtifactError, match="plain names"):
        source.here(tmp_path / "data")
    assert left(tmp_path / "data") == [] and not (tmp_path / "data" / "artifacts" / "escaped").exists()


def test_who_cannot_be_reached_is_told_from_who_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer is Unavailable, for another try; an unknown kind of URL is an ArtifactError."""
    source = Source("memory://models/night")

    def silent(*_: object, **__: object) -> bytes:
        raise TimeoutError("no answer in 5 s")

    with monkeypatch.context() as patched:
        patched.setattr(type(source.files), "cat_file", silent)
        with pytest.raises(Unavailable, match="no answer in 5 s"):
            source.here(tmp_path)
    assert source.here(tmp_path).is_dir()
    with pytest.raises(ArtifactError, match="install the package"):
        local_artifact("nosuch://models/night", "0" * 16, "0" * 64, tmp_path, check)


def test_many_at_once_fetch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that ask together get one good folder, and the source is read by one of them."""
    source, reads, together = Source("memory://models/night"), [], threading.Barrier(6)
    original = type(source.files).cat_file

    def counted(files: object, path: str, **options: object) -> bytes:
        reads.append(path)
        return original(files, path, **options)

    monkeypatch.setattr(type(source.files), "cat_file", counted)

    def ask(_: int) -> Path:
        together.wait()
        return source.here(tmp_path)

    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(ask, range(6)))) == 1
    assert len(reads) == 3 and left(tmp_path) == [source.version]
