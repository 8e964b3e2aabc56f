"""What scoring in the shadow has shown of a covered version beside the live one: sums over requests, and a verdict.

Sums and not means, because they add up: over the requests of a process, the processes of a node, the nodes of a fleet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from domain.comparison import Comparison
from domain.rollout import Phase, Rollout
from schemas.records import ShadowReport

__all__ = ["FEWEST_REQUESTS", "Pair", "ShadowSums", "Verdict", "judged", "sums_of", "to_compare"]

#: Requests that a verdict waits for.
FEWEST_REQUESTS: Final = 100


class Pair(NamedTuple):
    """What was compared: one build of a version, beside the version that was live."""

    version: str  #: 16 hex digits
    build_epoch: int
    live: str  #: 16 hex digits


@dataclass(frozen=True)
class ShadowSums:
    """Over the sampled requests of one pair; the fields are those of the report."""

    requests: int = 0  #: compared
    dropped: int = 0  #: not scored because scoring in the shadow was busy
    incomparable: int = 0  #: fewer than two candidates in common, or the live version could not score it again
    failed: int = 0  #: the live version could score it, the other one not
    overlap_sum: float = 0.0
    correlation_sum: float = 0.0
    drift_sum: float = 0.0
    shift_sum: float = 0.0
    live_ms_sum: float = 0.0
    shadow_ms_sum: float = 0.0

    def __add__(self, other: ShadowSums) -> ShadowSums:
        return ShadowSums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @classmethod
    def of(cls, comparison: Comparison, live_ms: float, shadow_ms: float) -> ShadowSums:
        """The sums of one compared request."""
        return cls(
            requests=1, overlap_sum=comparison.overlap, correlation_sum=comparison.correlation,
            drift_sum=comparison.drift, shift_sum=comparison.shift, live_ms_sum=live_ms, shadow_ms_sum=shadow_ms,
        )  # fmt: skip

    @property
    def judged(self) -> int:
        """Requests that a verdict counts: compared ones, and those that the version failed."""
        return self.requests + self.failed

    @property
    def overlap(self) -> float | None:
        """Mean top-k overlap; a request that the version failed counts with 0. None where there is none."""
        return self.overlap_sum / self.judged if self.judged else None

    @property
    def correlation(self) -> float | None:
        """Mean rank correlation."""
        return self._mean(self.correlation_sum)

    @property
    def drift(self) -> float | None:
        """Mean of |score - live score|."""
        return self._mean(self.drift_sum)

    @property
    def shift(self) -> float | None:
        """Mean of score - live score."""
        return self._mean(self.shift_sum)

    @property
    def live_ms(self) -> float | None:
        """Mean time of the live version: user phase and scoring, in the shadow as the other one's."""
        return self._mean(self.live_ms_sum)

    @property
    def shadow_ms(self) -> float | None:
        """Mean time of the version."""
        return self._mean(self.shadow_ms_sum)

    def _mean(self, total: float) -> float | None:
        return total / self.requests if self.requests else None


class Verdict(NamedTuple):
    """Whether a version may go live as far as its shadow says; None where that cannot be said yet."""

    passes: bool | None
    says: str


def to_compare(state: Rollout) -> Pair | None:
    """What is compared in a state: the covered version beside the live one; None where there is not both."""
    live, covered = state.live, state.upcoming
    if live is None or covered is None or covered.phase is not Phase.COVERED:
        return None
    return Pair(covered.name, covered.build_epoch, live.name)


def sums_of(pair: Pair, reports: Iterable[ShadowReport]) -> ShadowSums:
    """The sums of all reports about a pair; reports about others do not count."""
    total = ShadowSums()
    for report in reports:
        if Pair(report["version"], report["build_epoch"], report["live"]) == pair:
            total += ShadowSums(**{each.name: report[each.name] for each in fields(ShadowSums)})  # type: ignore[literal-required]
    return total


def judged(sums: ShadowSums, min_overlap: float) -> Verdict:
    """The verdict on a version of which `min_overlap` (of 1, 0 asks for nothing) is asked."""
    if not min_overlap:
        return Verdict(True, "no top-k overlap is asked for")
    overlap, count = sums.overlap, sums.judged
    if overlap is None or count < FEWEST_REQUESTS:
        return Verdict(None, f"{count} of the {FEWEST_REQUESTS} requests in the shadow that a verdict waits for")
    said = f"mean top-k overlap {overlap:.3f} over {count} requests in the shadow, {min_overlap} asked"
    return Verdict(overlap >= min_overlap, said)
