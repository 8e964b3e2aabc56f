"""Topic rollout as a host keeps it: records by their offset, and the state that they fold into."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from domain.rollout import Decision, Rollout, Terms
from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.records import RolloutEvent
from serving.tables.store import SlabKey, Store

__all__ = ["RolloutLog", "live_at_once", "rollout_in"]


def rollout_in(encoded: Sequence[bytes]) -> Rollout:
    """The state that records make, given in log order; what cannot be read here was counted when it came."""
    state, decode = Rollout(), codec("rollout_event").decode
    for value in encoded:
        with suppress(DecodeError):
            state = state.applied(cast(RolloutEvent, decode(value)))
    return state


class RolloutLog:
    """The roll-out as far as the feeder of this host has read it, folded again only where it has grown.

    Any thread may ask.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folded: tuple[object, Rollout] = (None, Rollout())

    @property
    def state(self) -> Rollout:
        """The newest state; the same object while no record came."""
        mark = self._store.log_mark()
        if mark != self._folded[0]:
            self._folded = mark, rollout_in(self._store.decisions())
        return self._folded[1]


def live_at_once(key: SlabKey, uri: str, manifest_sha256: str, now_ms: int, reason: str) -> list[RolloutEvent]:
    """The decisions that make the rows of a slot live in an empty log: for whoever has rows and no log at hand."""
    terms = Terms()
    return [
        {
            "epoch": epoch, "event_time_ms": now_ms, "decision": decision.value, "version": f"{key.tag:016x}",
            "slot": key.slot if decision is Decision.BUILD else "", "command_offset": -1, "uri": uri,
            "manifest_sha256": manifest_sha256, "gate": terms.gate, "auto": terms.auto, "shadow_s": terms.shadow_s,
            "min_overlap": terms.min_overlap, "retain_s": terms.retain_s, "by": "", "reason": reason,
        }
        for epoch, decision in enumerate((Decision.ACCEPT, Decision.BUILD, Decision.COVER, Decision.LIVE), 1)
    ]  # fmt: skip
