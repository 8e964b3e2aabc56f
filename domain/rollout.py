"""Which model version is built, live, kept and gone: one state machine, folded from topic `rollout` by everybody.

The coordinator (the worker that owns partition 0 of item-updates, or for commands one that stands in while it is
silent) reads operators' commands and workers' progress and writes one decision after the other; every worker and server
folds the decisions, in log order, into the same state.
A decision is a compare-and-set: it names the epoch that it makes, and counts only where that is the next one. So two
coordinators for a moment are harmless: of two decisions made of the same state the first in the log counts, and the
other's writer sees that and decides again. A command counts once: a decision about it names its offset.

============ =========================================== ==========================================================
decision     phase of the version                        effect
============ =========================================== ==========================================================
ACCEPT       none, RETIRED, REJECTED                     PUBLISHED
ACCEPT       PUBLISHED, BUILDING, COVERED, LIVE          as it is, with the new place and terms
BUILD        PUBLISHED                                   BUILDING, in a free slot; no other is building or covered
COVER        BUILDING                                    COVERED: every partition has its rows
LIVE         COVERED                                     LIVE; the one before RETAINED, the one before that RETIRED
ROLLBACK     LIVE                                        RETIRED; the retained one LIVE, whatever was next RETIRED
PAUSE        PUBLISHED, BUILDING, COVERED                as it is, but nothing goes on by itself
RESUME       PUBLISHED, BUILDING, COVERED                as it is, and goes on
RETIRE       PUBLISHED, BUILDING, COVERED, RETAINED      RETIRED
REJECT       PUBLISHED, BUILDING, COVERED                REJECTED, with the reason
REFUSE       any, none                                   as it is: the command cannot be carried out
============ =========================================== ==========================================================

Anything else changes nothing. At most one version is live, one retained, and one building or covered: three slots.
What is decided from a state stands in decisions.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from schemas.records import RolloutEvent

__all__ = ["SLOTS", "TRANSITIONS", "Decision", "Phase", "Rollout", "Terms", "Version", "folded"]

#: The slot tables; each holds the rows of one version, and the next one's when that one is retired.
SLOTS: Final = ("n2o_a", "n2o_b", "n2o_c")
#: Versions remembered after they are gone.
_MOST_GONE: Final = 64


class Phase(StrEnum):
    """Where a version stands."""

    PUBLISHED = "published"  #: accepted, its artifact not checked yet
    BUILDING = "building"  #: workers make its rows beside live traffic
    COVERED = "covered"  #: all its rows are there; may go live
    LIVE = "live"  #: answers
    RETAINED = "retained"  #: answered before the live one, and is kept up to date for a roll-back
    RETIRED = "retired"  #: gone; its slot is free
    REJECTED = "rejected"  #: failed a check; its slot is free


class Decision(StrEnum):
    """What the coordinator may decide."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    BUILD = "build"
    COVER = "cover"
    LIVE = "live"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"
    RETIRE = "retire"
    REJECT = "reject"


_GONE: Final = (Phase.RETIRED, Phase.REJECTED)
_NEXT: Final = (Phase.PUBLISHED, Phase.BUILDING, Phase.COVERED)

#: (phase before, decision) -> phase after, of the version that the decision names.
TRANSITIONS: Final[dict[tuple[Phase | None, Decision], Phase]] = {
    **{(phase, Decision.ACCEPT): Phase.PUBLISHED for phase in (None, Phase.RETIRED, Phase.REJECTED)},
    **{(phase, Decision.ACCEPT): phase for phase in (*_NEXT, Phase.LIVE)},
    (Phase.PUBLISHED, Decision.BUILD): Phase.BUILDING,
    (Phase.BUILDING, Decision.COVER): Phase.COVERED,
    (Phase.COVERED, Decision.LIVE): Phase.LIVE,
    (Phase.LIVE, Decision.ROLLBACK): Phase.RETIRED,
    **{(phase, decision): phase for phase in _NEXT for decision in (Decision.PAUSE, Decision.RESUME)},
    **{(phase, Decision.RETIRE): Phase.RETIRED for phase in (*_NEXT, Phase.RETAINED)},
    **{(phase, Decision.REJECT): Phase.REJECTED for phase in _NEXT},
}


@dataclass(frozen=True)
class Terms:
    """What the publisher asked for."""

    gate: float = 0.999  #: share of items that must have a row, of 1
    auto: bool = True  #: goes live by itself once it may; otherwise waits for `promote`
    shadow_s: int = 0  #: seconds to stay covered, scored in the shadow, before it goes live by itself
    min_overlap: float = 0.0  #: least mean top-k overlap with the live version in the shadow, of 1; 0 asks for none
    retain_s: int = 86_400  #: seconds that the version before it is kept for a roll-back


@dataclass(frozen=True)
class Version:
    """One version, as far as the log tells."""

    name: str  #: 16 hex digits
    phase: Phase
    uri: str
    manifest_sha256: str
    terms: Terms
    published_by: str
    offset: int  #: of the command that published it, in model-versions
    since_ms: int  #: when it came to its phase
    slot: str = ""  #: the table of its rows while it has one
    build_epoch: int = 0  #: of the decision to build it: progress of another build says nothing of this one
    paused: bool = False
    reason: str = ""  #: of the last decision about it

    @property
    def tag(self) -> int:
        """The version as N2O records carry it."""
        return int(self.name, 16)

    @property
    def fed(self) -> bool:
        """Whether workers keep rows of it."""
        return self.phase in (Phase.BUILDING, Phase.COVERED, Phase.LIVE, Phase.RETAINED)


@dataclass(frozen=True)
class Rollout:
    """The state: versions in the order in which they were last published."""

    epoch: int = 0
    next_command: int = 0  #: offset in model-versions of the first command that is not decided on
    versions: tuple[Version, ...] = ()
    refusals: tuple[RolloutEvent, ...] = field(default=(), compare=False)  #: the last refused commands, for people

    @property
    def live(self) -> Version | None:
        """The version that answers."""
        return self._only(Phase.LIVE)

    @property
    def retained(self) -> Version | None:
        """The version that a roll-back goes to."""
        return self._only(Phase.RETAINED)

    @property
    def upcoming(self) -> Version | None:
        """The version that is building or covered."""
        return self._only(Phase.BUILDING) or self._only(Phase.COVERED)

    @property
    def fed(self) -> dict[str, Version]:
        """Versions that workers keep rows of, by slot."""
        return {version.slot: version for version in self.versions if version.fed}

    @property
    def gone(self) -> frozenset[str]:
        """Names of versions that nothing is kept of."""
        return frozenset(version.name for version in self.versions if version.phase in _GONE)

    @property
    def kept(self) -> frozenset[str]:
        """Names of the others that are known."""
        return frozenset(version.name for version in self.versions) - self.gone

    @property
    def free_slot(self) -> str:
        """A slot that holds no version's rows. There is one whenever nothing is building or covered."""
        return next(slot for slot in SLOTS if slot not in self.fed)

    def get(self, name: str) -> Version | None:
        """The version of this name."""
        return next((version for version in self.versions if version.name == name), None)

    def applied(self, event: RolloutEvent) -> Rollout:
        """The state after a decision; this one where the decision does not count. Never raises."""
        if event["epoch"] != self.epoch + 1 or 0 <= event["command_offset"] < self.next_command:
            return self
        decision, version = Decision(event["decision"]), self.get(event["version"])
        if decision is Decision.REFUSE:
            return self._advanced(event, self.versions, (*self.refusals[-15:], event))
        phase = TRANSITIONS.get((version.phase if version else None, decision))
        if phase is None or (decision is Decision.ROLLBACK and self.retained is None):
            return self
        if decision is Decision.BUILD and (self.upcoming or event["slot"] not in SLOTS or event["slot"] in self.fed):
            return self
        if decision is Decision.ACCEPT:
            versions = self._accepted(event, version, phase)
        else:
            assert version is not None
            versions = tuple(
                _moved(each, phase, event) if each is version else self._aside(each, decision, event)
                for each in self.versions
            )
        return self._advanced(event, versions, self.refusals)

    def _only(self, phase: Phase) -> Version | None:
        return next((version for version in self.versions if version.phase is phase), None)

    def _advanced(
        self, event: RolloutEvent, versions: tuple[Version, ...], refusals: tuple[RolloutEvent, ...]
    ) -> Rollout:
        gone = [each for each in versions if each.phase in _GONE]
        forgotten = gone[: max(0, len(gone) - _MOST_GONE)]
        kept = tuple(each for each in versions if each not in forgotten)
        return Rollout(event["epoch"], max(self.next_command, event["command_offset"] + 1), kept, refusals)

    def _accepted(self, event: RolloutEvent, before: Version | None, phase: Phase) -> tuple[Version, ...]:
        terms = Terms(event["gate"], event["auto"], event["shadow_s"], event["min_overlap"], event["retain_s"])
        said = {
            "uri": event["uri"], "manifest_sha256": event["manifest_sha256"], "terms": terms,
            "published_by": event["by"], "offset": event["command_offset"], "reason": event["reason"],
        }  # fmt: skip
        if before is None or before.phase is not phase:
            version = Version(event["version"], phase, since_ms=event["event_time_ms"], **said)  # type: ignore[arg-type]
        else:
            version = replace(before, **said)  # type: ignore[arg-type]
        return (*(each for each in self.versions if each.name != version.name), version)

    def _aside(self, each: Version, decision: Decision, event: RolloutEvent) -> Version:
        """What a decision about another version does to this one."""
        because: RolloutEvent = {**event, "reason": f"{event['version']} went live"}
        if decision is Decision.LIVE and each.phase is Phase.LIVE:
            return _moved(each, Phase.RETAINED, because)
        if decision is Decision.LIVE and each.phase is Phase.RETAINED:
            return _moved(each, Phase.RETIRED, because)
        if decision is Decision.ROLLBACK and each.phase is Phase.RETAINED:
            return _moved(each, Phase.LIVE, {**event, "reason": f"{event['version']} was rolled back"})
        if decision is Decision.ROLLBACK and each.phase in _NEXT:
            return _moved(each, Phase.RETIRED, {**event, "reason": f"cancelled by the roll-back of {event['version']}"})
        return each


def folded(events: Iterable[RolloutEvent]) -> Rollout:
    """The state that a log of decisions makes."""
    state = Rollout()
    for event in events:
        state = state.applied(event)
    return state


def _moved(version: Version, phase: Phase, event: RolloutEvent) -> Version:
    decision, reason = Decision(event["decision"]), event["reason"]
    if phase is version.phase:
        return replace(version, paused=decision is Decision.PAUSE, reason=reason)
    paused = version.paused and phase in _NEXT
    moved = replace(version, phase=phase, since_ms=event["event_time_ms"], paused=paused, reason=reason)
    if decision is Decision.BUILD:
        return replace(moved, slot=event["slot"], build_epoch=event["epoch"])
    return moved if moved.fed else replace(moved, slot="")
