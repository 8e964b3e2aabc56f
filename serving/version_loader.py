"""Carries announced versions to the live one: decodes announcements, loads artifacts beside the feed, lets go live."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from domain.artifact import MANIFEST, sha256
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, DecodeError
from schemas.records import ModelVersion
from serving.store import Store
from serving.versions import Versions, load_model

__all__ = ["MODELS", "VersionLoader"]

#: The topic that announces versions.
MODELS: Final = "model-versions"

_log = logging.getLogger(__name__)


class VersionLoader:
    """Belongs to the feed's event loop; `settle` is to be called often and never waits."""

    def __init__(self, store: Store, versions: Versions, deployment: Deployment) -> None:
        self._store = store
        self._versions = versions
        self._deployment = deployment
        self._decode = codec("model_version").decode
        self._loading: asyncio.Task[None] | None = None

    def announce(self, values: Sequence[bytes | None]) -> None:
        """Take values of topic model-versions, in log order; what cannot be decoded is left out and counted."""
        for value in values:
            try:
                self._versions.announce(cast(ModelVersion, self._decode(value)))
            except DecodeError as error:
                self._store.refused[MODELS, error.reason] += 1
                _log.error("a record of %s was left out: %s", MODELS, error)

    def adopt(self, artifacts: Path) -> None:
        """Without the log of announcements: announce the versions that rows in the store name, best covered last."""
        for tag in sorted(self._store.slabs, key=self._store.coverage):
            folder = artifacts / f"{tag:016x}"
            if (folder / MANIFEST).is_file():
                self._versions.announce(
                    {
                        "event_id": 0,
                        "event_time_ms": 0,
                        "version": folder.name,
                        "manifest_sha256": sha256((folder / MANIFEST).read_bytes()),
                        "uri": str(folder),
                        "published_by": "",
                        "reason": "found beside the local tables",
                    }
                )

    def settle(self, may_go_live: bool) -> None:
        """Load the newest announced version beside the feed; make it live once its rows are there."""
        if self._loading and self._loading.done():
            self._loading.result()
            self._loading = None
        if self._loading is None and (record := self._versions.next_to_load()):
            self._loading = asyncio.create_task(self._load(record))
        if may_go_live:
            self._versions.advance()

    async def stop(self) -> None:
        """Wait for a load under way."""
        if self._loading:
            await asyncio.gather(self._loading, return_exceptions=True)

    async def _load(self, record: ModelVersion) -> None:
        try:
            model = await asyncio.to_thread(load_model, record, self._deployment)
        except ArtifactError as error:
            self._versions.refuse(record["version"], str(error))
        else:
            self._versions.loaded(model)
