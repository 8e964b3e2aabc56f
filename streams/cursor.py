"""Which source records a partition takes next: exactly the next one, never past a hole.

Faust can lose fetched batches between its consumer and an agent (rebalance, flow control), and the consumer's
position has then moved on. So the position is not trusted: the lane keeps `expected`, the next source offset it has
not applied, and a batch says which range of offsets its fetch consumed (`begin` to `end`, gaps left by compaction and
transaction markers included). This module is that decision, with no I/O.

========================== ==================== ==========================================================
batch                      decision             why
========================== ==================== ==========================================================
end <= expected            SKIP                 applied already
begin <= expected < end    TAKE from expected   contiguous; what lies before `expected` is cut off
begin > expected, fetched  SKIP                 still on its way from before the seek
before the last seek
begin > expected           SEEK                 something was lost on the way: fetch again from `expected`
========================== ==================== ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from schemas.errors import Corrupt

__all__ = ["Decision", "SourceCursor", "within_log"]


class Decision(Enum):
    """What to do with a fetched batch."""

    TAKE = "take"
    SKIP = "skip"
    SEEK = "seek"


@dataclass
class SourceCursor:
    """Position of one source partition.

    `expected` is the next offset to apply; `last_seek` the number of the newest fetch that may have started before
    the last seek.
    """

    expected: int
    last_seek: int = -1

    def decide(self, begin: int, end: int, fetch: int) -> Decision:
        """The decision for a batch whose fetch, number `fetch`, consumed offsets begin to end - 1."""
        if end <= self.expected:
            return Decision.SKIP
        if begin <= self.expected:
            return Decision.TAKE
        return Decision.SKIP if fetch <= self.last_seek else Decision.SEEK

    def advance(self, end: int) -> None:
        """Offsets below `end` are applied."""
        assert end >= self.expected, "a cursor never goes back"
        self.expected = end

    def sought(self, fetch: int) -> None:
        """The consumer was sent back to `expected`; fetches up to number `fetch` began before."""
        self.last_seek = fetch


def within_log(name: str, expected: int, start: int, end: int) -> int:
    """`expected`, where tables that stand there can go on with a log of offsets `start` to `end` - 1.

    Raises Corrupt where records that they need, or have applied, are gone; `name` is the source partition.
    """
    if expected < start:
        raise Corrupt(
            f"{name} starts at offset {start}, the tables stand at {expected}: retention has deleted records never "
            "applied. Restore them, or reset the tables and replay"
        )
    if expected > end:
        raise Corrupt(
            f"{name} ends at offset {end}, the tables stand at {expected}: records that were applied are gone"
        )
    return expected
