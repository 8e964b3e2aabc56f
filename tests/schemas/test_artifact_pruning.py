"""Copies that nobody needs are deleted, and nothing else is, whoever else is at work in the folder."""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from artifact_source import Source

from schemas import artifact_pruning
from schemas.artifact_cache import artifacts_folder, copy_note, locked_copy
from schemas.artifact_pruning import prune_copies
from schemas.errors import ArtifactError

HOUR_S, DAY_S = 3_600.0, 86_400.0


def left(data_dir: Path) -> list[str]:
    """Everything in the folder, locks and notes included."""
    return sorted(path.name for path in artifacts_folder(data_dir).iterdir())


def later(seconds: float) -> float:
    """A time that much later than now."""
    return time.time() + seconds


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """An artifact that lies elsewhere."""
    return Source(str(tmp_path / "elsewhere"))


def test_a_copy_goes_some_time_after_its_version(source: Source, tmp_path: Path) -> None:
    """An hour after a gone version was last asked for, 30 days after an unknown one was, no file of it is left."""
    for gone, wait_s in (({source.version}, HOUR_S), (set[str](), 30 * DAY_S)):
        folder = source.here(tmp_path)
        assert prune_copies(tmp_path, set(), gone, later(0.9 * wait_s)) == []
        assert source.here(tmp_path) == folder
        [pruned] = prune_copies(tmp_path, set(), gone, later(1.1 * wait_s))
        assert (pruned.version, pruned.gone) == (source.version, bool(gone)) and pruned.nbytes > 100
        assert f"the copy of model {source.version} is deleted (0.0 MB)" in str(pruned)
        assert left(tmp_path) == []


def test_a_copy_that_is_kept_stays_whatever_others_know(source: Source, tmp_path: Path) -> None:
    """Who keeps a version notes that at each look, so another one to whom it is unknown or gone leaves it too."""
    source.here(tmp_path)
    os.utime(copy_note(artifacts_folder(tmp_path) / source.version), (0, 0))
    assert prune_copies(tmp_path, {source.version}, set()) == []
    assert prune_copies(tmp_path, set(), {source.version}) == []
    assert prune_copies(tmp_path, {source.version}, set(), later(10**9)) == [], "a clock that jumps deletes no kept one"


def test_what_was_not_fetched_is_never_deleted(tmp_path: Path) -> None:
    """An artifact that training wrote into the folder is nobody's copy, published or not, gone or unknown."""
    made = Source(str(artifacts_folder(tmp_path) / "made here"))
    stored = artifacts_folder(tmp_path) / made.version
    Path(made.uri).rename(stored)
    made.uri = str(stored)
    assert made.here(tmp_path) == stored
    for gone in ({made.version}, set[str]()):
        assert prune_copies(tmp_path, set(), gone, later(10**9)) == []
    (stored / "head").write_bytes(b"weighty")
    with pytest.raises(ArtifactError):
        made.here(tmp_path)
    assert prune_copies(tmp_path, set(), {made.version}, later(10**9)) == []
    assert (stored / "head").is_file()


def test_a_copy_that_is_being_fetched_is_left_alone(source: Source, tmp_path: Path) -> None:
    """Whoever fetches holds the lock; what a fetch that was killed has left goes, with or without a copy beside it."""
    source.here(tmp_path)
    folder = artifacts_folder(tmp_path) / source.version
    part = folder.with_name(f".{folder.name}.part")
    with locked_copy(folder, fcntl.LOCK_EX):
        part.mkdir()
        assert prune_copies(tmp_path, set(), {source.version}, later(2 * HOUR_S)) == []
    assert part.is_dir() and folder.is_dir()
    assert len(prune_copies(tmp_path, set(), {source.version}, later(2 * HOUR_S))) == 1
    assert left(tmp_path) == []
    part.mkdir()
    assert len(prune_copies(tmp_path, set(), set(), later(31 * DAY_S))) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("step", [1, 2])
def test_a_deletion_that_was_killed_is_gone_on_with(
    step: int, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever step it ends nobody finds half a copy; the next one ends it, or a fetch brings the version back."""
    folder, clear, cleared = artifacts_folder(tmp_path) / source.version, artifact_pruning._clear, list[Path]()

    def killed(part: Path) -> None:
        cleared.append(part)
        if len(cleared) == step:
            raise OSError("killed")
        clear(part)

    for fetched_again in (True, False):
        source.here(tmp_path)
        cleared.clear()
        with monkeypatch.context() as patched:
            patched.setattr(artifact_pruning, "_clear", killed)
            with pytest.raises(OSError, match="killed"):
                prune_copies(tmp_path, set(), {source.version}, later(2 * HOUR_S))
        assert folder.exists() == (step == 1)
        if fetched_again:
            assert len(list(source.here(tmp_path).iterdir())) == 3
        assert len(prune_copies(tmp_path, set(), {source.version}, later(2 * HOUR_S))) == 1
        assert left(tmp_path) == []


def test_who_asks_finds_a_whole_copy_while_others_delete(source: Source, tmp_path: Path) -> None:
    """Readers and pruners that all take every use for an old one: each reader has its copy, or fetches it again."""
    over, failures = threading.Event(), list[str]()

    def delete(seed: int) -> None:
        chance = random.Random(seed)
        while not over.is_set():
            try:
                prune_copies(tmp_path, set(), {source.version}, later(2 * HOUR_S))
            except OSError as error:
                failures.append(str(error))
            over.wait(chance.random() / 500)

    def ask(_: int) -> None:
        for _ in range(200):
            source.here(tmp_path)

    with ThreadPoolExecutor(6) as threads:
        pruners = [threads.submit(delete, seed) for seed in range(2)]
        readers = [threads.submit(ask, number) for number in range(4)]
        for each in readers:
            each.result(60)
        over.set()
        for each in pruners:
            each.result(60)
    assert failures == []
    prune_copies(tmp_path, set(), {source.version}, later(2 * HOUR_S))
    assert left(tmp_path) == []


def test_a_note_under_the_lock_is_seen(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is asked for while a pruner has found it old, and waits for nothing more than the lock, stays."""
    source.here(tmp_path)
    folder = artifacts_folder(tmp_path) / source.version
    os.utime(copy_note(folder), (1, 1))

    def locked(where: Path, how: int) -> object:
        source.here(tmp_path)  # just before
        return locked_copy(where, how)

    monkeypatch.setattr(artifact_pruning, "locked_copy", locked)
    assert prune_copies(tmp_path, set(), {source.version}) == []
    assert folder.is_dir()


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    """Before anything was fetched there is nothing to look after."""
    assert prune_copies(tmp_path, {"0" * 16}, {"1" * 16}) == []
