"""Verdicts on the artifacts of published versions."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from plain_artifact import DIMENSIONS, digest_of, plain_artifact

from domain.artifact import HEAD, MANIFEST, sha256
from domain.rollout import Phase, Terms, Version
from schemas.deployment import Deployment
from streams.artifact_checks import ArtifactChecks


def published(folder: Path, offset: int = 3, uri: str = "") -> Version:
    """A version as the log says it was published."""
    digest = digest_of(folder)
    return Version(digest[:16], Phase.PUBLISHED, uri or str(folder), digest, Terms(), "", offset, 0)


def verdicts(checks: ArtifactChecks, *versions: Version) -> dict[int, str]:
    """What is found of these versions."""

    async def found() -> dict[int, str]:
        checks.look_at(versions)
        async with asyncio.timeout(10):
            while len(checks.verdicts) < len(versions):  # noqa: ASYNC110 - a poll, as the coordinator does it
                await asyncio.sleep(0.01)
        said = dict(checks.verdicts)
        checks.look_at(replace(version, phase=Phase.BUILDING) for version in versions)
        assert checks.verdicts == {}, "a version that is not published any more is forgotten"
        return said

    return asyncio.run(found())


def test_good_is_told_from_bad(tmp_path: Path) -> None:
    """A good artifact has an empty verdict and is in the cache; a damaged or unfitting one is told what is wrong."""
    good = published(plain_artifact(tmp_path / "good"), 1)
    damaged = published(plain_artifact(tmp_path / "damaged", training={"seed": 2}), 2)
    (tmp_path / "damaged" / HEAD).write_bytes(b"")
    other = published(plain_artifact(tmp_path / "other", dimensions=replace(DIMENSIONS, embedding_dim=32)), 3)
    found = verdicts(ArtifactChecks(Deployment(data_dir=tmp_path / "data")), good, damaged, other)
    assert found[1] == "" and "head.npz has sha256" in found[2] and "embedding_dim 32" in found[3]
    assert (tmp_path / "data" / "artifacts" / good.name / HEAD).is_file()


def test_a_manifest_that_trips_a_check_is_the_artifacts_fault(tmp_path: Path) -> None:
    """Sizes that are no numbers are a verdict, and end nothing else."""
    folder = plain_artifact(tmp_path / "a")
    text = (folder / MANIFEST).read_text().replace('"vector_dim": 64', '"vector_dim": [64]')
    (folder / MANIFEST).write_text(text)
    assert sha256(text.encode()) == digest_of(folder)
    [verdict] = verdicts(ArtifactChecks(Deployment(data_dir=tmp_path)), published(folder)).values()
    assert verdict


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the memory store give no answer to the next so many reads."""
    kind = type(fsspec.filesystem("memory"))
    answer, left = kind.cat_file, [0]

    def cat_file(self: object, path: str, **options: object) -> bytes:
        if left[0] > 0:
            left[0] -= 1
            raise TimeoutError("no answer")
        return answer(self, path, **options)

    monkeypatch.setattr(kind, "cat_file", cat_file)
    return lambda reads: left.__setitem__(0, reads)


def test_who_cannot_be_reached_is_asked_again_and_given_up_in_the_end(
    tmp_path: Path, silent: Callable[[int], None]
) -> None:
    """A store that is silent once delays the verdict; one that stays silent gets one that says what to do."""
    folder = plain_artifact(tmp_path / "a")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/published", recursive=True)
    version = published(folder, uri="memory://published")
    shutil.rmtree(folder)
    deployment = Deployment(data_dir=tmp_path / "data")
    silent(1_000)
    [verdict] = verdicts(ArtifactChecks(deployment, reached_within_s=0.2), version).values()
    assert "no answer" in verdict and "publish it again" in verdict
    silent(1)
    assert verdicts(ArtifactChecks(deployment), version) == {3: ""}


def test_a_fetch_that_stands_still_is_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for a store that takes the question and gives no answer."""
    answer = threading.Event()
    monkeypatch.setattr("streams.artifact_checks.local_artifact", lambda *_: answer.wait(20))
    version = published(plain_artifact(tmp_path / "a"))
    checks = ArtifactChecks(Deployment(data_dir=tmp_path), fetched_within_s=0.1)

    async def found() -> str:
        checks.look_at([version])
        try:
            async with asyncio.timeout(10):
                while not checks.verdicts:  # noqa: ASYNC110 - a poll, as the coordinator does it
                    await asyncio.sleep(0.01)
            return checks.verdicts[3]
        finally:
            answer.set()

    assert "stands still" in asyncio.run(found())
