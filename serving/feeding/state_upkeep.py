"""What the feeder does a few times a second beside applying rows: roll-outs, progress, and which state is read."""

from __future__ import annotations

import time
from typing import Final

from schemas.errors import Corrupt
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.rollout.announcements import announced_in, tag_of
from serving.rollout.flip import Rollout
from serving.tables.progress import Progress

__all__ = ["StateUpkeep"]

_PUBLISH_EVERY_S: Final = 0.05


class StateUpkeep:
    """Of one state while it is written. Belongs to the thread that applies."""

    def __init__(
        self, folder: StateFolder, number: int, writer: StoreWriter, progress: Progress, gate: float, reason: str = ""
    ) -> None:
        self._folder = folder
        self._number = number
        self._writer = writer
        self._progress = progress
        self._rollout = Rollout(writer, folder.control, gate)
        self._reason = reason  #: why this state is made beside the current one
        self._published_s = 0.0

    def step(self) -> None:
        """Never waits. Raises Corrupt where a reader found this state damaged."""
        control = self._folder.control
        if control.damaged == self._number:
            raise Corrupt("a reader found rows that are not as they were written")
        # Before everything is applied, coverage is of a part of the catalogue and would mean nothing.
        if self._progress.caught_up:
            announced = [tag_of(record) for record in announced_in(self._writer.store.announced())]
            if control.state == self._number:
                self._rollout.advance(announced)
            elif self._rollout.may_take_over(announced):
                self._folder.make_current(self._number)
        if (now_s := time.monotonic()) - self._published_s >= _PUBLISH_EVERY_S:
            self._published_s = now_s
            self._writer.store.rows.tidy()
            beside = self._reason if control.state != self._number else ""
            self._progress.publish(control, self._writer.refused, beside)
