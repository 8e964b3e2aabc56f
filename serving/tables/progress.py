"""How far the feeder is, and what that means for readiness.

The feeder's process writes it (`publish`, on the control page); scoring processes read it there (`refresh`), a few
times a second. Every field is replaced whole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from serving.rollout.control import ControlPage
from serving.rollout.versions import Versions
from serving.tables.store import USERS, Store, TablePartition

__all__ = ["Progress", "Token"]

#: A feeder that has said nothing for so long is gone or stopped.
_SILENT_S: Final = 3.0
_WAIT_STEP_S: Final = 0.001
#: Looking at all watermarks takes a fifth of what a request takes besides scoring: once in so long is enough.
_LOOK_S: Final = 0.1


class Token(NamedTuple):
    """A record of topic user-events: what a producer was told when it had been appended."""

    partition: int
    offset: int


@dataclass
class Progress:
    """The feed's state."""

    #: More changelog offsets behind than this, in all partitions together, and the server is not ready.
    most_lag: int = 100_000
    connected: bool = False
    #: Why the broker is not connected, or what the feed is doing; shown by /readyz.
    says: str = "starting"
    #: Set once: everything that the changelogs, or the local tables, held at the start has been applied.
    caught_up: bool = False
    #: Set where the feed has ended for good.
    failed: str | None = None
    lag: dict[TablePartition, int] = field(default_factory=dict)
    #: What the feeder says of the roll-out on this host (`Flip.said`).
    rollout: dict[str, Any] = field(default_factory=dict)
    #: When the feed last proved that it held everything (monotonic seconds).
    current_at_s: float | None = None
    #: When the newest transaction of the local tables was written (wall ms), and when that was looked up.
    written: tuple[float, float | None] = (float("-inf"), None)
    monotonic_s: Callable[[], float] = time.monotonic
    wall_s: Callable[[], float] = time.time

    def not_ready(self, versions: Versions) -> list[str]:
        """Why the server should get no traffic; empty where it should.

        A broker that is away does not make a server unready: it answers from memory and says how old that is.
        """
        reasons = []
        if self.failed:
            reasons.append(self.failed)
        if not self.caught_up:
            reasons.append(f"bootstrap has not caught up: {self.says}")
        if versions.live is None:
            reasons.append(versions.why_none_answers())
        if (behind := sum(self.lag.values())) > self.most_lag:
            reasons.append(f"{behind} changelog offsets behind, more than {self.most_lag}")
        return reasons

    def age_ms(self, store: Store) -> float | None:
        """How old the data may be: since the last proof that everything was applied; None where nobody can say.

        Without a broker ever reached, since the newest transaction that the local tables hold.
        """
        if self.current_at_s is not None:
            return (self.monotonic_s() - self.current_at_s) * 1000
        now_s = self.monotonic_s()
        if now_s - self.written[0] >= _LOOK_S:
            self.written = now_s, max((mark["wall_time_ms"] for mark in store.watermarks.values()), default=None)
        written_ms = self.written[1]
        return None if written_ms is None else max(0.0, self.wall_s() * 1000 - written_ms)

    def reached(self, store: Store, token: Token) -> bool:
        """Whether the user rows of the store contain what a record did."""
        mark = store.mark(TablePartition(USERS, token.partition))
        return mark is not None and mark["next_source_offset"] > token.offset

    def wait_for(self, store: Store, token: Token, deadline_s: float) -> bool:
        """Wait until the store contains a record, or until a time (monotonic); says whether it does.

        Blocks its thread, looking every millisecond: for a worker thread. An event loop asks `reached` itself.
        """
        while not self.reached(store, token):
            left_s = deadline_s - self.monotonic_s()
            if left_s <= 0:
                return False
            time.sleep(min(_WAIT_STEP_S, left_s))
        return True

    def publish(
        self,
        control: ControlPage,
        refused: Mapping[tuple[str, str], int],
        rollout: Mapping[str, Any],
        beside: str = "",
    ) -> None:
        """Write it to the control page, with the counts of refused rows and what is to be known of the roll-out here;
        the feeder's sign of life too.

        `beside` says why another state is read than the one that this is about: then nothing of it is proved.
        """
        control.heartbeat_ns = int(self.monotonic_s() * 1e9)
        if not beside:
            control.current_at_ns = None if self.current_at_s is None else int(self.current_at_s * 1e9)
        says = f"{self.says}; answers are of the state before ({beside})" if beside else self.says
        control.say(
            {
                "connected": self.connected, "says": says, "caught_up": self.caught_up and not beside,
                "failed": self.failed, "lag": [[*at, behind] for at, behind in self.lag.items()],
                "refused": [[*what, count] for what, count in refused.items()], "rollout": dict(rollout),
            }
        )  # fmt: skip

    def refresh(self, control: ControlPage, store: Store) -> None:
        """Take what the feeder has written."""
        current_at_ns = control.current_at_ns
        self.current_at_s = None if current_at_ns is None else current_at_ns / 1e9
        if said := control.said():
            self.caught_up, self.failed = said["caught_up"], said["failed"]
            self.lag = {TablePartition(table, partition): behind for table, partition, behind in said.get("lag", [])}
            store.refused = Counter({(table, why): count for table, why, count in said.get("refused", [])})
            self.rollout = said.get("rollout", {})
        silent_s = self.monotonic_s() - control.heartbeat_ns / 1e9
        silent = silent_s >= _SILENT_S
        self.connected = bool(said) and said["connected"] and not silent
        if silent:
            self.says = f"the feeder says nothing (for {silent_s:.0f} s)" if control.heartbeat_ns else "starting"
        elif said:
            self.says = said["says"]
