"""What the coordinator decides next, from the state, the commands, the workers' progress and the clock. No I/O.

One decision at a time: it is written, read back, and the next one is made of the state that it made. So a coordinator
that dies between two leaves nothing half done, and its successor goes on from the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from domain.rollout import Decision, Phase, Rollout, Terms, Version
from domain.shadow import judged, sums_of, to_compare
from schemas.records import BuildProgress, ModelVersion, RolloutEvent, ShadowReport

__all__ = ["Coverage", "Inputs", "coverage_of", "decide", "decide_on_command"]

_VERSION: Final = re.compile(r"[0-9a-f]{16}")
#: Ten years: what is longer is a mistake, and times stay within 64 bits.
_LONGEST_S: Final = 10 * 365 * 86_400
_ON_THE_WAY: Final = (Phase.PUBLISHED, Phase.BUILDING, Phase.COVERED)


@dataclass(frozen=True)
class Inputs:
    """What a decision is made of, besides the state."""

    #: (offset, command) in log order; None stands for a record that is no command
    commands: Sequence[tuple[int, ModelVersion | None]]
    progress: Mapping[tuple[str, int], BuildProgress]  #: newest by (version, partition)
    shadows: Mapping[tuple[str, str], ShadowReport]  #: newest by (version, node)
    checked: Mapping[int, str]  #: verdict on the artifact of a Version, by its `offset`: "" is good, else what is wrong
    partitions: int  #: of the deployment
    now_ms: int


@dataclass(frozen=True)
class Coverage:
    """How far a build is, over all partitions; a partition that has not reported counts as nothing done."""

    items: int
    written: int
    rejected: int
    done: bool  #: every partition has looked at all its items
    items_per_s: float  #: of the partitions that are not done, together
    seconds_left: float | None  #: of the slowest partition; None where one has not said how fast it is
    problems: Sequence[str] = field(default_factory=list)  #: what workers cannot get over
    missing: Sequence[int] = field(default_factory=list)  #: partitions that have not reported

    @property
    def share(self) -> float:
        """Items with a row, of 1; 1 where there are none."""
        return self.written / self.items if self.items else float(self.done)


def coverage_of(version: Version, progress: Mapping[tuple[str, int], BuildProgress], partitions: int) -> Coverage:
    """The coverage of a version's present build."""
    reports = {
        partition: report
        for partition in range(partitions)
        if (report := progress.get((version.name, partition))) and report["build_epoch"] == version.build_epoch
    }
    found = list(reports.values())
    unfinished = [report for report in found if not report["done"]]
    known = len(found) == partitions and all(report["items_per_s"] > 0 for report in unfinished)
    left = [(it["items"] - it["written"] - it["rejected"]) / it["items_per_s"] for it in unfinished] if known else []
    return Coverage(
        items=sum(report["items"] for report in found),
        written=sum(report["written"] for report in found),
        rejected=sum(report["rejected"] for report in found),
        done=len(found) == partitions and not unfinished,
        items_per_s=sum(report["items_per_s"] for report in unfinished),
        seconds_left=max(0.0, *left, 0.0) if known else None,
        problems=sorted({report["problem"] for report in found if report["problem"]}),
        missing=[partition for partition in range(partitions) if partition not in reports],
    )


def decide(state: Rollout, inputs: Inputs) -> RolloutEvent | None:
    """The next decision, None where there is nothing to decide now."""
    if (event := decide_on_command(state, inputs)) is not None:
        return event
    steps = (_refuted, _superseded, _going_on, _expired)
    return next((event for step in steps if (event := step(state, inputs))), None)


def decide_on_command(state: Rollout, inputs: Inputs) -> RolloutEvent | None:
    """The decision on the first command that waits for one; None where none does.

    Made of the state and the command alone: whoever makes it of the same state makes the same, but for its time.
    """
    waiting = (each for each in inputs.commands if each[0] >= state.next_command)
    offset, command = next(waiting, (-1, None))
    return None if offset < 0 else _commanded(state, offset, command, inputs.now_ms)


def _commanded(state: Rollout, offset: int, command: ModelVersion | None, now_ms: int) -> RolloutEvent:
    """The decision on a command: what it asks for, or REFUSE with what stands against it."""
    if command is None:
        return _event(state, Decision.REFUSE, "", now_ms, "the record is no command", offset=offset)
    asked, version = command["command"], state.get(command["version"])

    def decided(decision: Decision, name: str = command["version"], reason: str = command["reason"]) -> RolloutEvent:
        return _event(state, decision, name, now_ms, reason, offset=offset, command=command)

    def refused(why: str) -> RolloutEvent:
        return decided(Decision.REFUSE, reason=f"{asked}: {why}")

    if asked == "publish":
        against = _unfit(command) or (_against_publishing(version, command) if version else "")
        return refused(against) if against else decided(Decision.ACCEPT)
    if asked == "rollback":
        if state.live is None or state.retained is None:
            return refused("no version is retained to go back to")
        if command["version"] not in ("", state.live.name):
            return refused(f"{state.live.name} is live: it is rolled back already, or never was live")
        return decided(Decision.ROLLBACK, state.live.name)
    if version is None:
        return refused("no such version was published")
    if asked == "promote":
        if version.phase is not Phase.COVERED:
            return refused(f"it is {version.phase}, only a covered version can go live")
        return decided(Decision.LIVE)
    if asked == "retire":
        if version.phase is Phase.LIVE:
            return refused("it is live: promote or publish another one, or roll back")
        if version.phase in (Phase.RETIRED, Phase.REJECTED):
            return refused(f"it is {version.phase} already")
        return decided(Decision.RETIRE)
    if version.phase not in _ON_THE_WAY:
        return refused(f"it is {version.phase}: nothing goes on that could be stopped or gone on with")
    return decided(Decision.PAUSE if asked == "pause" else Decision.RESUME)


def _against_publishing(version: Version, command: ModelVersion) -> str:
    """Why a version that the state knows cannot be published (again) by this command; "" where it can."""
    if version.phase is Phase.RETAINED:
        return "it is retained for a roll-back: `aif model rollback` makes it live again"
    if version.fed and version.manifest_sha256 != command["manifest_sha256"]:
        return f"it is {version.phase} with another manifest, {version.manifest_sha256}: one name, one artifact"
    if version.phase is Phase.COVERED and command["gate"] > version.terms.gate:
        return f"it is covered under the gate {version.terms.gate}: retire it first, to build it under another"
    return ""


def _unfit(command: ModelVersion) -> str:
    """What no version can be published with, whoever wrote the command; "" where nothing stands against it."""
    if not _VERSION.fullmatch(command["version"]):
        return f"{command['version']!r} is no version: expected 16 hex digits"
    for name, share in (("gate", command["gate"]), ("min_overlap", command["min_overlap"])):
        if not 0 <= share <= 1:
            return f"{name} is {share}: expected a share from 0 to 1"
    for name, seconds in (("shadow_s", command["shadow_s"]), ("retain_s", command["retain_s"])):
        if not 0 <= seconds <= _LONGEST_S:
            return f"{name} is {seconds}: expected 0 to {_LONGEST_S} seconds"
    return ""


def _refuted(state: Rollout, inputs: Inputs) -> RolloutEvent | None:
    """A published version whose artifact is bad is rejected before anything else: it must not supersede a good one."""
    for each in state.versions:
        verdict = inputs.checked.get(each.offset)
        if each.phase is Phase.PUBLISHED and not each.paused and verdict:
            return _event(state, Decision.REJECT, each.name, inputs.now_ms, verdict)
    return None


def _superseded(state: Rollout, inputs: Inputs) -> RolloutEvent | None:
    """Of several versions the one published last counts, the live one included, once its artifact is known as good."""
    newest = -1
    for place, each in enumerate(state.versions):
        good = each.phase is Phase.PUBLISHED and inputs.checked.get(each.offset) == ""
        if good or each.phase in (Phase.BUILDING, Phase.COVERED, Phase.LIVE):
            newest = place
    older = next((each for each in state.versions[: max(newest, 0)] if each.phase in _ON_THE_WAY), None)
    if older is None:
        return None
    return _event(state, Decision.RETIRE, older.name, inputs.now_ms, f"superseded by {state.versions[newest].name}")


def _going_on(state: Rollout, inputs: Inputs) -> RolloutEvent | None:
    """The next step of the oldest version on its way; a newer one waits for its artifact's verdict to supersede it."""
    version = next((each for each in state.versions if each.phase in _ON_THE_WAY), None)
    if version is None or version.paused:
        return None

    def decided(decision: Decision, reason: str, slot: str = "") -> RolloutEvent:
        return _event(state, decision, version.name, inputs.now_ms, reason, slot=slot)

    if version.phase is Phase.PUBLISHED:
        if inputs.checked.get(version.offset) != "":
            return None
        return decided(Decision.BUILD, "its artifact passed every check", state.free_slot)
    if version.phase is Phase.BUILDING:
        coverage = coverage_of(version, inputs.progress, inputs.partitions)
        if coverage.problems:
            return decided(Decision.REJECT, coverage.problems[0])
        if not coverage.done:
            return None
        said = f"{coverage.written} of {coverage.items} items have a row, {coverage.rejected} were rejected"
        enough = coverage.share >= version.terms.gate
        return decided(Decision.COVER if enough else Decision.REJECT, said)
    return _after_shadow(state, version, inputs) if version.terms.auto else None


def _after_shadow(state: Rollout, version: Version, inputs: Inputs) -> RolloutEvent | None:
    terms: Terms = version.terms
    pair = to_compare(state)
    if pair is None:
        return _event(state, Decision.LIVE, version.name, inputs.now_ms, "the first version")
    if inputs.now_ms < version.since_ms + 1000 * terms.shadow_s:
        return None
    if not terms.min_overlap:
        return _event(state, Decision.LIVE, version.name, inputs.now_ms, "covered")
    verdict = judged(sums_of(pair, inputs.shadows.values()), terms.min_overlap)
    if verdict.passes is None:
        return None
    decision = Decision.LIVE if verdict.passes else Decision.REJECT
    return _event(state, decision, version.name, inputs.now_ms, verdict.says)


def _expired(state: Rollout, inputs: Inputs) -> RolloutEvent | None:
    retained, live = state.retained, state.live
    if retained is None or live is None or inputs.now_ms < retained.since_ms + 1000 * live.terms.retain_s:
        return None
    return _event(state, Decision.RETIRE, retained.name, inputs.now_ms, "its window for a roll-back has passed")


def _event(
    state: Rollout, decision: Decision, version: str, now_ms: int, reason: str, *,
    slot: str = "", offset: int = -1, command: ModelVersion | None = None,
) -> RolloutEvent:  # fmt: skip
    terms = Terms()
    return {
        "epoch": state.epoch + 1,
        "event_time_ms": now_ms,
        "decision": decision.value,
        "version": version,
        "slot": slot,
        "command_offset": offset,
        "uri": command["uri"] if command else "",
        "manifest_sha256": command["manifest_sha256"] if command else "",
        "gate": command["gate"] if command else terms.gate,
        "auto": command["auto"] if command else terms.auto,
        "shadow_s": command["shadow_s"] if command else terms.shadow_s,
        "min_overlap": command["min_overlap"] if command else terms.min_overlap,
        "retain_s": command["retain_s"] if command else terms.retain_s,
        "by": command["published_by"] if command else "coordinator",
        "reason": reason,
    }
