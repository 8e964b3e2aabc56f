"""A server's host looks after its copies of artifacts, once it knows all decisions."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from artifact_source import Source

from domain.rollout import Phase, Rollout, Terms, Version
from schemas.artifact_cache import copy_note
from serving.feeding import artifact_upkeep
from serving.feeding.artifact_upkeep import look_after_copies


def test_copies_are_deleted_once_the_log_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What seems unknown while decisions are read stays; then what is gone goes, and a disk that refuses is said."""
    sources = [Source(str(tmp_path / name), names=(name,)) for name in ("live", "gone")]
    folders = [source.here(tmp_path) for source in sources]
    for folder in folders:
        os.utime(copy_note(folder), (0, 0))
    decisions: Any = SimpleNamespace(state=Rollout())
    progress: Any = SimpleNamespace(connected=True, caught_up=False)

    async def run() -> None:
        looking = asyncio.create_task(look_after_copies(tmp_path, decisions, progress, every_s=0.01))
        await asyncio.sleep(0.1)
        assert all(folder.exists() for folder in folders)
        phases = zip(sources, (Phase.LIVE, Phase.REJECTED), strict=True)
        versions = [Version(source.version, phase, "", "", Terms(), "", 0, 0) for source, phase in phases]
        decisions.state, progress.caught_up = Rollout(versions=tuple(versions)), True
        await until(lambda: not folders[1].exists())
        monkeypatch.setattr(artifact_upkeep, "prune_copies", refused)
        await until(lambda: "are not looked after: read-only" in caplog.text)
        assert not looking.done()
        looking.cancel()

    with caplog.at_level("INFO"):
        asyncio.run(run())
    assert folders[0].exists()
    assert f"the copy of model {sources[1].version} is deleted" in caplog.text


def refused(*_: object) -> list[Any]:
    """The disk says no."""
    raise OSError("read-only")


async def until(holds: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
