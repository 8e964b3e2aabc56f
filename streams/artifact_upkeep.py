"""The copies of artifacts on this worker's machine: those of its versions are kept, others deleted in time."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Protocol

from domain.rollout import Rollout
from schemas.artifact_pruning import PRUNE_EVERY_S, prune_copies
from schemas.errors import Unavailable
from streams import metrics

__all__ = ["Known", "look_after_copies"]

logger = logging.getLogger(__name__)


class Known(Protocol):
    """What this worker knows of versions."""

    @property
    def state(self) -> Rollout:
        """What was folded so far."""

    async def read_to_end(self) -> None:
        """Wait until all that the log of decisions holds now is folded."""


async def look_after_copies(data_dir: Path, known: Known, every_s: float = PRUNE_EVERY_S) -> None:
    """Delete copies that nobody needs, now and then until cancelled. A disk that refuses is only said."""
    while True:
        try:
            await known.read_to_end()  # what is not read yet would be unknown
            state = known.state
            for pruned in await asyncio.to_thread(prune_copies, data_dir, state.kept, state.gone):
                metrics.artifacts_pruned.inc()
                logger.info("%s", pruned)
        except (OSError, Unavailable) as error:
            logger.warning("copies of artifacts are not looked after: %s; trying again in %.0f s", error, every_s)
        await asyncio.sleep(every_s)
