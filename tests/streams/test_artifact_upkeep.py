"""A worker looks after the copies on its machine: by what it has read of the log, and whatever the disk says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from artifact_source import Source
from prometheus_client import REGISTRY

from domain.rollout import Phase, Rollout, Terms, Version
from schemas.artifact_cache import artifacts_folder, copy_note
from schemas.errors import Unavailable
from streams.artifact_upkeep import look_after_copies


class Known:
    """What is known once the log was read, which fails at first."""

    def __init__(self, *versions: Version) -> None:
        self.state = Rollout()
        self._read, self.reads = Rollout(versions=versions), 0

    async def read_to_end(self) -> None:
        """See streams.artifact_upkeep.Known."""
        self.reads += 1
        if self.reads == 1:
            raise Unavailable("the broker is away")
        self.state = self._read


def deleted() -> float:
    """Copies deleted by workers of this process."""
    return REGISTRY.get_sample_value("aif_artifacts_pruned_total") or 0.0


def test_copies_of_versions_that_are_gone_are_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not before the log was read to its end, the log says what, and a version that is live stays."""
    sources = [Source(str(tmp_path / name), names=(name,)) for name in ("live", "gone")]
    versions = [
        Version(source.version, phase, "", "", Terms(), "", 0, 0)
        for source, phase in zip(sources, (Phase.LIVE, Phase.RETIRED), strict=True)
    ]
    folders = [source.here(tmp_path) for source in sources]
    for folder in folders:
        os.utime(copy_note(folder), (0, 0))
    known, before = Known(*versions), deleted()

    async def run() -> None:
        looking = asyncio.create_task(look_after_copies(tmp_path, known, every_s=0.01))
        while known.reads < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        looking.cancel()

    with caplog.at_level("INFO"):
        asyncio.run(asyncio.wait_for(run(), 20))
    assert [folder.exists() for folder in folders] == [True, False]
    assert deleted() == before + 1
    assert "are not looked after: the broker is away" in caplog.text
    assert f"the copy of model {sources[1].version} is deleted" in caplog.text
    assert artifacts_folder(tmp_path).is_dir()
