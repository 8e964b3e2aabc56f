"""The feeder's side of a roll-out: when this host may answer by the version that the log says is live.

The log names the version; a host follows as soon as it can answer as well by it: its own store holds the rows that the
version's terms ask for, and every scoring process that answers has it loaded and warm. The switch is one store on the
control page. Until then the version before answers. A process that does not manage in time is not waited for, and goes
on with the version before until it does: 10 s in a roll-out, half a second where the version that answers was taken
back, because whoever rolls back wants it gone. The version that a roll-back goes to is kept loaded, warm and fed, so
nothing is left to wait for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from domain.rollout import Rollout, Version
from serving.feeding.store_writer import StoreWriter
from serving.rollout.control import ControlPage
from serving.tables.store import SlabKey

__all__ = ["Flip"]

_PATIENCE_S: Final = 10.0
_HURRY_S: Final = 0.5

_log = logging.getLogger(__name__)


class Flip:
    """Belongs to the thread that applies."""

    def __init__(
        self,
        writer: StoreWriter,
        control: ControlPage,
        monotonic_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._control = control
        self._now_s = monotonic_s
        self._wall_s = wall_s
        #: The live version and since when it is (tag, ms), and when it was first found covered here.
        self._covered: tuple[tuple[int, int], float] = ((0, 0), 0.0)
        self._switched_ms: int | None = None  #: when the version that answers began to; None where another feeder knew

    def advance(self, state: Rollout) -> bool:
        """Let the live version answer here where it may; says whether it has just begun to."""
        self._writer.keep(frozenset(SlabKey(slot, version.tag) for slot, version in state.fed.items()))
        live, answers = state.live, self._control.live
        if live is None or live.tag == answers or not self._is_covered(live):
            return False
        if self._covered[0] != (live.tag, live.since_ms):
            self._covered = (live.tag, live.since_ms), self._now_s()
        rows = self._control.warm_rows()
        if not any(live.tag in row.tags for row in rows):
            return False
        # A process that answers by nothing yet is still starting: nobody needs to wait for it.
        late = [row for row in rows if answers in row.tags and live.tag not in row.tags]
        patience_s = _PATIENCE_S if any(each.tag == answers for each in state.fed.values()) else _HURRY_S
        if late and self._now_s() - self._covered[1] < patience_s:
            return False
        self._control.live, self._switched_ms = live.tag, int(self._wall_s() * 1000)
        self._say(state, len(late))
        return True

    def may_take_over(self, state: Rollout) -> bool:
        """Whether this state can answer in the place of another one: by what answers now, or by what is live."""
        answers = self._control.live
        wanted = [each for each in state.fed.values() if each.tag == answers or each is state.live]
        return not answers or any(map(self._is_covered, wanted))

    def said(self, state: Rollout) -> dict[str, Any]:
        """The roll-out on this host, for people."""
        slabs = self._writer.slabs
        return {
            "epoch": state.epoch,
            "answers": f"{self._control.live:016x}" if self._control.live else None,
            "answers_since_ms": self._switched_ms,
            "slab_bytes": sum(slab.nbytes for slab in slabs.values()),
            "most_slab_bytes": self._writer.most_slab_bytes,
        }

    def _is_covered(self, version: Version) -> bool:
        """Whether the store has the rows that a version's terms ask for, of items that it knows."""
        store = self._writer.store
        return len(store.items) > 0 and store.coverage(SlabKey(version.slot, version.tag)) >= version.terms.gate

    def _say(self, state: Rollout, late: int) -> None:
        """What answers from now on, and what the versions on this host take."""
        names = {each.tag: f"{each.name} ({each.phase})" for each in state.fed.values()}
        held = ", ".join(
            f"{names.get(key.tag, f'rest of {key.tag:016x}')} {len(slab)} rows {slab.nbytes / 1e6:.1f} MB"
            for key, slab in sorted(self._writer.slabs.items())
        )
        _log.info(
            "model %016x answers%s; held: %s; all slots take at most %.1f MB",
            self._control.live, f" ({late} processes are still loading it)" if late else "", held,
            self._writer.most_slab_bytes / 1e6,
        )  # fmt: skip
