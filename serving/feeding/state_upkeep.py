"""What the feeder does a few times a second beside applying rows: roll-outs, progress, and which state is read."""

from __future__ import annotations

import time
from typing import Final

from schemas.errors import Corrupt
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.rollout.announcements import RolloutLog
from serving.rollout.flip import Flip
from serving.tables.progress import Progress

__all__ = ["StateUpkeep"]

_PUBLISH_EVERY_S: Final = 0.05


class StateUpkeep:
    """Of one state while it is written. Belongs to the thread that applies."""

    def __init__(
        self, folder: StateFolder, number: int, writer: StoreWriter, progress: Progress, reason: str = ""
    ) -> None:
        self._folder = folder
        self._number = number
        self._writer = writer
        self._progress = progress
        self._log = RolloutLog(writer.store)
        self._flip = Flip(writer, folder.control)
        self._reason = reason  #: why this state is made beside the current one
        self._published_s = 0.0
        self._waited = -1  #: the epoch that was waited for already

    def answers_from(self, table: str) -> bool:
        """Whether the version that answers on this host has rows in this slot."""
        return any(key.slot == table and key.tag == self._folder.control.live for key in self._writer.slabs)

    def waits_to_flip(self) -> bool:
        """Whether the version that answers was taken back, and another one is to; False once it was waited for."""
        state = self._log.state
        taken_back = all(each.tag != self._folder.control.live for each in state.fed.values())
        return state.live is not None and taken_back and self._waited != state.epoch

    def stop_waiting(self) -> None:
        """Ask no more to wait for the newest decision."""
        self._waited = self._log.state.epoch

    def step(self) -> None:
        """Never waits. Raises Corrupt where a reader found this state damaged."""
        control = self._folder.control
        if control.damaged == self._number:
            raise Corrupt("a reader found rows that are not as they were written")
        state = self._log.state
        # Before everything is applied, coverage is of a part of the catalogue and would mean nothing.
        if self._progress.caught_up:
            if control.state == self._number:
                self._flip.advance(state)
            elif self._flip.may_take_over(state):
                self._folder.make_current(self._number)
        if (now_s := time.monotonic()) - self._published_s >= _PUBLISH_EVERY_S:
            self._published_s = now_s
            self._writer.store.rows.tidy()
            beside = self._reason if control.state != self._number else ""
            self._progress.publish(control, self._writer.refused, self._flip.said(state), beside)
