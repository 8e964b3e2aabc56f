"""How far the feed is, as other threads may read it, and what that means for readiness.

The feed's thread is the only writer; every field is replaced whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.store import Store, TablePartition
from serving.versions import Versions

__all__ = ["Progress"]


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
    #: When the feed last proved that it held everything (monotonic seconds).
    current_at_s: float | None = None
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
            reasons.append(_no_version(versions))
        if (behind := sum(self.lag.values())) > self.most_lag:
            reasons.append(f"{behind} changelog offsets behind, more than {self.most_lag}")
        return reasons

    def age_ms(self, store: Store) -> float | None:
        """How old the data may be: since the last proof that everything was applied; None where nobody can say.

        Without a broker ever reached, since the newest transaction that the local tables hold.
        """
        if self.current_at_s is not None:
            return (self.monotonic_s() - self.current_at_s) * 1000
        written = [mark["wall_time_ms"] for mark in list(store.watermarks.values())]
        return max(0.0, self.wall_s() * 1000 - max(written)) if written else None


def _no_version(versions: Versions) -> str:
    refused = "; ".join(f"model {name} was refused: {why}" for name, why in list(versions.refused.items()))
    if candidate := versions.candidate:
        return f"model {candidate.name} waits for its rows: {len(candidate.slab)} so far, gate {versions.gate}"
    if refused:
        return refused
    return "no model version was announced: train one, then `aif model publish`"
