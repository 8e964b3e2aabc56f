"""The copies of artifacts on this host: those of versions that it may answer with are kept, others deleted in time."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from schemas.artifact_pruning import PRUNE_EVERY_S, prune_copies
from serving.rollout.announcements import RolloutLog
from serving.tables.progress import Progress

__all__ = ["look_after_copies"]

_LOOK_S: Final = 0.2

_log = logging.getLogger(__name__)


async def look_after_copies(
    data_dir: Path, decisions: RolloutLog, progress: Progress, every_s: float = PRUNE_EVERY_S
) -> None:
    """Delete copies that nobody needs, now and then until cancelled. A disk that refuses is only said."""
    while True:
        # Before all decisions are read, versions are unknown here that others have live.
        while not (progress.connected and progress.caught_up):  # noqa: ASYNC110 - which are words in mapped memory
            await asyncio.sleep(_LOOK_S)
        state = decisions.state
        try:
            for pruned in await asyncio.to_thread(prune_copies, data_dir, state.kept, state.gone):
                _log.info("%s", pruned)
        except OSError as error:
            _log.warning("copies of artifacts are not looked after: %s; trying again in %.0f s", error, every_s)
        await asyncio.sleep(every_s)
