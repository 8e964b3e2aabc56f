"""Whether the artifacts of published versions are good: looked at in threads, once for each publishing.

The verdict is that of every worker and server, by the same checks of the same bytes (schemas/artifact_cache.py): what
passes here is not rejected there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final

from domain.artifact import MANIFEST, Manifest, check_artifact, check_fit
from domain.rollout import Phase, Version
from schemas.artifact_cache import local_artifact
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, Unavailable

__all__ = ["ArtifactChecks"]

logger = logging.getLogger(__name__)

#: Where an artifact cannot be reached for so long, whoever published it should hear of it.
_REACHED_WITHIN_S: Final = 60.0
#: A fetch that takes longer stands still: an artifact has some megabytes.
_FETCHED_WITHIN_S: Final = 600.0
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 8.0


class ArtifactChecks:
    """Verdicts on published versions, by the offset of the command that published them."""

    def __init__(
        self, deployment: Deployment, *,
        reached_within_s: float = _REACHED_WITHIN_S, fetched_within_s: float = _FETCHED_WITHIN_S,
    ) -> None:  # fmt: skip
        self._deployment = deployment
        self._reached_within_s, self._fetched_within_s = reached_within_s, fetched_within_s
        self._tasks: dict[int, asyncio.Task[str]] = {}

    def look_at(self, versions: Iterable[Version]) -> None:
        """Check those of these versions that are published and not looked at yet; forget what is none of them."""
        published = {version.offset: version for version in versions if version.phase is Phase.PUBLISHED}
        for offset in [offset for offset in self._tasks if offset not in published]:
            self._tasks.pop(offset).cancel()
        for offset, version in published.items():
            if offset not in self._tasks:
                self._tasks[offset] = asyncio.create_task(self._verdict(version), name=f"check {version.name}")

    @property
    def verdicts(self) -> Mapping[int, str]:
        """What was found so far: "" is good, else what is wrong."""
        return {offset: task.result() for offset, task in self._tasks.items() if task.done() and not task.cancelled()}

    def stop(self) -> None:
        """Wait for nothing more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _verdict(self, version: Version) -> str:
        deadline, wait_s = time.monotonic() + self._reached_within_s, _FIRST_WAIT_S
        while True:
            try:
                async with asyncio.timeout(self._fetched_within_s):
                    await asyncio.to_thread(self._check, version)
            except ArtifactError as error:
                return str(error)
            except TimeoutError:
                return f"fetching {version.uri} stands still after {self._fetched_within_s:.0f} s: publish it again"
            except Unavailable as error:
                if time.monotonic() + wait_s > deadline:
                    return f"{error}; tried for {self._reached_within_s:.0f} s: publish it again when it can be reached"
                logger.warning("model %s: %s; trying again in %.1f s", version.name, error, wait_s)
            except Exception as error:
                # Whatever else its bytes do to a check is the artifact's fault, not the fleet's.
                logger.exception("model %s: an error nobody expected", version.name)
                return f"checking its artifact ended with {type(error).__name__}: {error}"
            else:
                return ""
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _check(self, version: Version) -> None:
        deployment = self._deployment
        folder = local_artifact(version.uri, version.name, version.manifest_sha256, deployment.data_dir, check_artifact)
        check_fit(Manifest.from_json((folder / MANIFEST).read_bytes()), deployment)
