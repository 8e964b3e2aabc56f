"""A scoring process follows what the feeder says: the state to read, how far it is, which versions to load."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from domain.rollout import Version
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, Corrupt, Unavailable
from serving.feeding.state import StateFolder
from serving.quiet import yield_to_requests
from serving.rollout.versions import Model, Versions, load_model
from serving.tables.progress import Progress
from serving.tables.store import Store

__all__ = ["Follower"]

_EVERY_S: Final = 0.05
#: Where nothing says that anything has changed, all is looked at again after this long.
_SETTLE_S: Final = 0.5

_log = logging.getLogger(__name__)


class Follower:
    """A thread of a scoring process. `step` is what it does again and again; it never waits for a model."""

    def __init__(
        self, deployment: Deployment, folder: StateFolder, store: Store, versions: Versions, progress: Progress
    ) -> None:
        self._deployment = deployment
        self._folder = folder
        self._store = store
        self._versions = versions
        self._progress = progress
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load", initializer=yield_to_requests)
        self._loading: tuple[Version, Future[Model]] | None = None
        self._settled: tuple[float, object] = (float("-inf"), None)  #: when, and for what
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> None:
        """Begin in a thread of its own."""
        self._thread.start()

    def wait_for_live(self, within_s: float, stopping: threading.Event) -> None:
        """Return when this process has the version that is live, at once where none is, or after a time.

        A process that is started while others answer takes no connection before: it could only refuse.
        """
        end_s = time.monotonic() + within_s
        while self._folder.control.live and self._versions.live is None and time.monotonic() < end_s:
            if stopping.wait(_EVERY_S):
                return

    def stop(self) -> None:
        """End the thread, and a load under way."""
        self._stopping.set()
        self._thread.join()
        self._loader.shutdown(wait=True)
        self._versions.close()

    def step(self) -> None:
        """Take over what has changed."""
        self._switch()
        self._progress.refresh(self._folder.control, self._store)
        if self._take_loaded() or self._has_changed():
            self._versions.settle()
            if self._loading is None and (version := self._versions.next_to_load()):
                self._loading = version, self._loader.submit(load_model, version, self._deployment)

    def _has_changed(self) -> bool:
        """Whether there may be something to settle: what is decided, answers or lies there is not as it was.

        Looking at all of it takes a few requests' worth of time a second; being told of a change costs a tenth.
        """
        now_s, found = time.monotonic(), (self._folder.control.live, self._store.log_mark(), self._store.files_mark())
        settled_s, seen = self._settled
        if found == seen and now_s - settled_s < _SETTLE_S:
            return False
        self._settled = now_s, found
        return True

    def _run(self) -> None:
        yield_to_requests()
        while not self._stopping.wait(_EVERY_S):
            try:
                self.step()
            except Corrupt as error:
                _log.error("%s", error)
                self._folder.control.report_damage(self._number)
            except (Unavailable, OSError) as error:
                _log.warning("the serving state cannot be read: %s", error)

    @property
    def _number(self) -> int:
        return int(self._store.folder.name.rpartition("-")[2])

    def _switch(self) -> None:
        """Read the current state: requests that began with the one before end with it."""
        wanted = self._folder.path(self._folder.control.state)
        if wanted != self._store.folder and wanted.is_dir():
            self._store.switch(wanted)
            _log.info("answers are of %s now", wanted)

    def _take_loaded(self) -> bool:
        """Take what was loaded; whether anything was."""
        if self._loading is None or not self._loading[1].done():
            return False
        version, loading = self._loading
        self._loading = None
        try:
            self._versions.loaded(loading.result())
        except (ArtifactError, Unavailable) as error:
            self._versions.refuse(version.name, str(error))
        return True
