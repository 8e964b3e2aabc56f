"""The feeder process: the one of its host that writes the serving state. It answers nobody.

Where another process feeds this state already (a second `aif serve` on the same data directory), it waits for its turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from domain.shadow import to_compare
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from serving.feeding.artifact_upkeep import look_after_copies
from serving.feeding.feed import Feed
from serving.feeding.freshness import Freshness
from serving.feeding.shadow_reports import ShadowReporter
from serving.feeding.state import StateFolder
from serving.feeding.state_upkeep import StateUpkeep
from serving.feeding.store_writer import StoreWriter
from serving.quiet import yield_to_requests
from serving.rollout.announcements import RolloutLog
from serving.rollout.shadow_board import ShadowBoard
from serving.tables.progress import Progress
from serving.tables.store import Store

__all__ = ["FRESHNESS_FILE", "Feeder"]

FRESHNESS_FILE: Final = "freshness"
_TURN_S: Final = 0.2
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0

_log = logging.getLogger(__name__)


class Feeder:
    """Feeds one deployment's state on this host until told to stop."""

    def __init__(self, deployment: Deployment, tables: Path | None, shadow_share: float = 0.0) -> None:
        """`shadow_share` is what the scoring processes of this host sample, for the reports on it."""
        self._deployment, self._tables, self._shadow_share = deployment, tables, shadow_share
        self._stopping = threading.Event()
        self._feed: Feed | None = None

    def run(self) -> None:
        """Return after SIGTERM, with the state closed in good order. SIGINT is the parent's to pass on."""
        yield_to_requests()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        folder = StateFolder.of(self._deployment)
        lock = folder.lock()
        if lock is None:
            _log.info("another process feeds %s: waiting for its turn", folder.folder)
        while lock is None and not self._stopping.wait(_TURN_S):
            lock = folder.lock()
        if lock is not None:
            self._feed_states(folder)
            os.close(lock)

    def stop(self) -> None:
        """End `run` soon. Any thread, and a signal, may call it."""
        self._stopping.set()
        if self._feed is not None:
            self._feed.stop()

    def _feed_states(self, folder: StateFolder) -> None:
        """Feed the current state, and another one beside it whenever one turns out to be no good."""
        pause_s, reason = _FIRST_PAUSE_S, ""
        number, store = folder.open_or_create()
        while not self._stopping.is_set():
            try:
                self._feed_state(folder, number, store, reason)
            except Corrupt as error:
                reason = str(error)
                _log.error("%s. Another state is made from tables and changelogs; answers go on meanwhile", reason)
                store.close()
                if self._stopping.wait(pause_s):
                    return
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                number, store = folder.create()
        folder.close(store)

    def _feed_state(self, folder: StateFolder, number: int, store: Store, reason: str) -> None:
        started_s = time.monotonic()
        progress, writer = Progress(), StoreWriter(store)
        rows = sum(map(len, writer.slabs.values()))
        if writer.offsets:
            _log.info("opened %s: %d rows checked in %.0f ms", store.folder, rows, 1e3 * (time.monotonic() - started_s))
        upkeep = StateUpkeep(folder, number, writer, progress, reason)
        freshness = Freshness(folder.folder / FRESHNESS_FILE)
        self._feed = Feed(self._deployment, writer, upkeep, progress, freshness, self._tables)
        if self._stopping.is_set():
            return
        decisions, board = RolloutLog(store), ShadowBoard(folder.folder)
        reporter = ShadowReporter(self._deployment, board, self._shadow_share, lambda: to_compare(decisions.state))
        copies = look_after_copies(self._deployment.data_dir, decisions, progress)
        asyncio.run(_beside(self._feed, reporter, copies))


async def _beside(feed: Feed, reporter: ShadowReporter, copies: Coroutine[Any, Any, None]) -> None:
    """Feed, and report meanwhile; the reports end with the feed, and so does what looks after copies."""
    reporting, looking = asyncio.create_task(reporter.run()), asyncio.create_task(copies)
    try:
        await feed.run()
    finally:
        looking.cancel()
        reporter.stop()
        await reporting
