"""What is made once a version, or now and then, beside the requests: states of nobody, costs, shelves of candidates."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from serving.quiet import yield_to_requests
from serving.ranking.retrieval import Catalogue
from serving.rollout.versions import Version, Versions
from serving.user.calibration import Speeds
from serving.user.user_side import UserSide
from serving.user.user_state import UserState

__all__ = ["Upkeep"]

_TURN_S: Final = 0.5

_log = logging.getLogger(__name__)


class Upkeep:
    """A thread that looks after the versions in use."""

    def __init__(
        self,
        versions: Versions,
        users: UserSide[Version, UserState],
        speeds: Speeds,
        catalogue: Catalogue | None,
        sweep_s: float,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sweep_s` passes between two sweeps of the catalogue: how old what can be retrieved may be."""
        self._versions = versions
        self._users = users
        self._speeds = speeds
        self._catalogue = catalogue
        self._sweep_s = sweep_s
        self._now_s = monotonic_s
        self._swept: tuple[float, frozenset[int]] = (float("-inf"), frozenset())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin; the first turn at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the turn under way."""
        self._stopping.set()
        self._thread.join()

    def turn(self) -> None:
        """Do what is due."""
        in_use = self._versions.in_use
        self._users.use(frozenset(version.tag for version in in_use))
        for version in in_use:
            self._users.default(version)
            self._speeds.measure(version)
        swept_s, swept = self._swept
        tags = frozenset(version.tag for version in in_use)
        if self._catalogue is not None and (tags != swept or self._now_s() - swept_s >= self._sweep_s):
            self._catalogue.refresh(in_use)
            self._swept = self._now_s(), tags

    def _run(self) -> None:
        yield_to_requests()
        while not self._stopping.wait(_TURN_S):
            try:
                self.turn()
            except Exception:  # of a version's graph, say: requests go on without what was due, and it is tried again
                _log.exception("upkeep failed; it is tried again in %.1f s", _TURN_S)
