"""Decisions by example, each refusal among them, and thousands of schedules in which everything goes wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest
from rollout_world import NAMES, World, command, on_the_way, shadowed

from domain.decisions import Inputs, coverage_of, decide
from domain.rollout import TRANSITIONS, Phase, Rollout
from schemas.records import BuildProgress, RolloutEvent, ShadowReport

X, Y, Z = NAMES[:3]
GOOD = dict.fromkeys(range(100), "")
NOTHING = Inputs([], {}, {}, GOOD, partitions=2, now_ms=0)


def report(version: str, partition: int, build_epoch: int, **said: Any) -> BuildProgress:
    """A partition that is done, with 10 items of which all have a row."""
    record: Any = {
        "version": version, "partition": partition, "build_epoch": build_epoch, "items": 10, "written": 10,
        "rejected": 0, "done": True, "items_per_s": 1.0, "problem": "", "worker": "w", "event_time_ms": 0,
    }  # fmt: skip
    return {**record, **said}


class Log:
    """One coordinator alone: commands in, decisions out, each applied at once."""

    def __init__(self) -> None:
        self.state, self.inputs, self.said = Rollout(), NOTHING, list[RolloutEvent]()

    def ask(self, asked: str, version: str = X, **terms: Any) -> RolloutEvent:
        """A command, and the decision on it alone."""
        commands = [*self.inputs.commands, (len(self.inputs.commands), command(asked, version, **terms))]
        self.inputs = replace(self.inputs, commands=commands)
        return self.step()

    def step(self, **inputs: Any) -> RolloutEvent:
        """The next decision, which must be one and count."""
        self.inputs = replace(self.inputs, **inputs)
        event = decide(self.state, self.inputs)
        assert event is not None, f"nothing is decided in {self.state}"
        self.state, before = self.state.applied(event), self.state
        assert self.state.epoch == before.epoch + 1
        self.said.append(event)
        return event

    def rest(self, **inputs: Any) -> bool:
        """Whether there is nothing to decide."""
        self.inputs = replace(self.inputs, **inputs)
        return decide(self.state, self.inputs) is None

    def report(self, version: str = X, **said: Any) -> None:
        """Both partitions report on the present build."""
        built = self.state.get(version)
        assert built is not None
        found = {(version, partition): report(version, partition, built.build_epoch, **said) for partition in (0, 1)}
        self.inputs = replace(self.inputs, progress={**self.inputs.progress, **found})

    def raise_(self, version: str, **terms: Any) -> None:
        """Publish a version and see it live."""
        self.ask("publish", version, **terms)
        self.step()
        self.report(version)
        assert [self.step()["decision"], self.step()["decision"]] == ["cover", "live"]


def shadow(live: str, build_epoch: int, requests: int, overlap: float) -> dict[tuple[str, str], ShadowReport]:
    """What two nodes have measured of X."""
    return {(X, node): shadowed(X, build_epoch, live, requests // 2, overlap) for node in "ab"}


REFUSED: list[tuple[list[tuple[str, str]], str, str, dict[str, Any], str]] = [
    ([("live", X), ("live", Y)], "publish", X, {}, "retained for a roll-back"),
    ([("live", X)], "publish", X, {"manifest_sha256": "another"}, "live with another manifest"),
    ([("covered", X)], "publish", X, {"gate": 0.9}, "covered under the gate 0.5"),
    ([], "rollback", "", {}, "no version is retained"),
    ([("live", X)], "rollback", X, {}, "no version is retained"),
    ([("live", X), ("live", Y)], "rollback", X, {}, f"{Y} is live"),
    ([], "promote", X, {}, "no such version"),
    ([], "retire", X, {}, "no such version"),
    ([("published", X)], "promote", X, {}, "it is published, only a covered version"),
    ([("live", X)], "retire", X, {}, "it is live"),
    ([("live", X), ("live", Y), ("live", Z)], "retire", X, {}, "it is retired already"),
    ([("live", X)], "pause", X, {}, "it is live: nothing goes on"),
    ([("live", X), ("live", Y)], "resume", X, {}, "it is retained: nothing goes on"),
]  # fmt: skip


#: In whatever state.
UNFIT: list[tuple[list[tuple[str, str]], str, str, dict[str, Any], str]] = [
    ([], "publish", "model", {}, "'model' is no version"),
    ([], "publish", X, {"gate": 1.01}, "gate is 1.01"),
    ([], "publish", X, {"min_overlap": -0.1}, "min_overlap is -0.1"),
    ([], "publish", X, {"shadow_s": -1}, "shadow_s is -1"),
    ([], "publish", X, {"retain_s": 10**12}, "retain_s is"),
    ([], "publish", X, {"gate": float("nan")}, "gate is nan"),
]


@pytest.mark.parametrize(
    ("before", "asked", "version", "terms", "why"), REFUSED + UNFIT, ids=lambda each: str(each)[:30]
)
def test_what_cannot_be_carried_out_is_refused_with_the_reason(
    before: list[tuple[str, str]], asked: str, version: str, terms: dict[str, Any], why: str
) -> None:
    """Each command that the state forbids leaves every version as it is, and says what stands against it."""
    log = Log()
    for phase, name in before:
        if phase == "live":
            log.raise_(name)
            continue
        log.ask("publish", name, auto=False)
        if phase == "covered":
            log.step()
            log.report(name)
            log.step()
    versions = log.state.versions
    refused = log.ask(asked, version, **terms)
    assert refused["decision"] == "refuse"
    assert refused["reason"].startswith(f"{asked}: ") and why in refused["reason"]
    assert (log.state.versions, log.state.next_command) == (versions, len(log.inputs.commands))


def test_a_record_that_is_no_command_is_passed_over() -> None:
    """Its place in the log is decided on like a command's, so that what follows it is carried out."""
    log = Log()
    log.inputs = replace(log.inputs, commands=[(0, None)])
    assert (log.step()["decision"], log.state.next_command) == ("refuse", 1)
    assert log.ask("publish")["decision"] == "accept"


def test_a_version_comes_up_by_itself() -> None:
    """Published, checked, built and covered, the first version goes live; the next keeps it for its window."""
    log = Log()
    log.raise_(X)
    log.raise_(Y, retain_s=60)
    assert [each["decision"] for each in log.said] == 2 * ["accept", "build", "cover", "live"]
    assert log.rest(now_ms=59_999)
    assert (log.step(now_ms=60_000)["decision"], log.state.fed) == ("retire", {"n2o_b": log.state.live})


def test_nothing_is_built_before_its_artifact_is_checked() -> None:
    """A published version waits for the verdict on this publishing; another publishing's verdict says nothing of it."""
    log = Log()
    log.ask("publish")
    assert log.rest(checked={1: "", 7: ""})
    assert log.step(checked={0: "head.npz differs"})["reason"] == "head.npz differs"
    log.ask("publish", uri="/elsewhere")
    assert log.rest()
    assert log.step(checked={0: "head.npz differs", 1: ""})["decision"] == "build"


def test_a_bad_publish_leaves_a_good_build_alone() -> None:
    """A newer version supersedes the one in work only once its own artifact is known to be good."""
    log = Log()
    log.ask("publish", X)
    log.step()
    log.inputs = replace(log.inputs, checked={0: ""})
    log.ask("publish", Y)
    log.ask("publish", Z)
    assert log.rest()
    assert log.step(checked={0: "", 2: "its checksum differs"})["version"] == Z
    assert log.state.upcoming == log.state.get(X)
    superseded = log.step(checked={0: "", 1: ""})
    assert (superseded["decision"], superseded["version"]) == ("retire", X)
    assert (log.step()["decision"], log.state.upcoming) == ("build", log.state.get(Y))


def test_the_live_version_published_again_ends_what_was_next() -> None:
    """Whoever publishes last is followed: a build that was begun before does not replace the live version after."""
    log = Log()
    log.raise_(X)
    log.ask("publish", Y)
    log.step()
    log.ask("publish", X, retain_s=5)
    assert (log.step()["version"], log.state.upcoming) == (Y, None)
    assert log.state.live and log.state.live.terms.retain_s == 5
    assert log.rest()


def test_coverage_is_of_the_present_build_and_all_partitions() -> None:
    """Reports of an earlier build and of other partitions count as nothing; an empty partition reports as well."""
    log = Log()
    log.ask("publish")
    log.step()
    version = log.state.versions[0]
    empty = report(X, 0, version.build_epoch, items=0, written=0)
    reports = {(X, 0): empty, (X, 1): report(X, 1, 1), (Y, 1): report(Y, 1, 2)}
    found = coverage_of(version, reports, 2)
    assert (found.items, found.done, found.missing, found.share) == (0, False, [1], 0.0)
    assert log.rest(progress=reports)
    reports[X, 1] = report(X, 1, version.build_epoch, items=10, written=9, rejected=1)
    found = coverage_of(version, reports, 2)
    assert (found.items, found.written, found.rejected, found.done, found.share) == (10, 9, 1, True, 0.9)
    assert coverage_of(version, {(X, 0): reports[X, 0]}, 1).share == 1.0


def test_a_build_takes_as_long_as_its_slowest_partition() -> None:
    """Time left is the longest of those not done, unknown while one has not said how fast it is; rates add up."""
    log = Log()
    log.ask("publish")
    log.step()
    version = log.state.versions[0]

    def pace(*said: dict[str, Any]) -> tuple[float, float | None]:
        reports = {(X, at): report(X, at, version.build_epoch, **each) for at, each in enumerate(said)}
        found = coverage_of(version, reports, 3)
        return found.items_per_s, found.seconds_left

    fast = {"items": 100, "written": 40, "done": False, "items_per_s": 20.0}
    slow = {"items": 100, "written": 80, "rejected": 10, "done": False, "items_per_s": 2.0}
    assert pace(fast, slow, {"items_per_s": 900.0}) == (22.0, 5.0)
    assert pace(fast, slow) == (22.0, None)
    assert pace(fast, {"done": False, "items_per_s": 0.0}, slow) == (22.0, None)
    assert pace({}, {}, {}) == (0, 0.0)


@pytest.mark.parametrize(
    ("version", "terms", "why"),
    [
        ("../../etc", {}, "expected 16 hex digits"),
        (X, {"gate": 1.5}, "gate is 1.5"),
        (X, {"gate": float("nan")}, "gate is nan"),
        (X, {"min_overlap": -0.1}, "min_overlap is -0.1"),
        (X, {"shadow_s": -1}, "shadow_s is -1"),
        (X, {"retain_s": 2**62}, "retain_s is"),
    ],
)
def test_what_no_version_can_be_published_with_is_refused(version: str, terms: dict[str, Any], why: str) -> None:
    """Whoever wrote the command: a name that is no version's, shares and times that are none, change nothing."""
    log = Log()
    refused = log.ask("publish", version, **terms)
    assert refused["decision"] == "refuse" and why in refused["reason"]
    assert log.state.versions == ()


def test_a_record_that_is_no_command_is_refused_once() -> None:
    """It has its place in the log, which is decided on like any other: a successor does not meet it again."""
    log = Log()
    refused = log.step(commands=[(0, None), (1, command("rollback", ""))])
    assert (refused["decision"], refused["command_offset"], refused["version"]) == ("refuse", 0, "")
    assert log.step()["command_offset"] == 1 and log.rest()


@pytest.mark.parametrize(
    ("said", "decision", "why"),
    [
        ({"written": 9, "rejected": 1}, "cover", "18 of 20 items have a row, 2 were rejected"),
        ({"written": 8, "rejected": 2}, "reject", "16 of 20 items have a row, 4 were rejected"),
        ({"done": False, "problem": "its tower fails here"}, "reject", "its tower fails here"),
    ],
)
def test_a_build_ends_by_its_gate_or_its_problem(said: dict[str, Any], decision: str, why: str) -> None:
    """A version is covered at its gate exactly, rejected below it and on a worker's problem, with the numbers."""
    log = Log()
    log.ask("publish", gate=0.9)
    log.step()
    log.report(**said)
    assert (log.step()["decision"], log.said[-1]["reason"]) == (decision, why)


def test_a_shadow_gate_waits_measures_and_decides() -> None:
    """A covered version waits for its time and for enough requests, of this build beside this live version only."""
    for overlap, decision in ((0.95, "live"), (0.85, "reject")):
        log = Log()
        log.raise_(Y)
        log.ask("publish", X, shadow_s=60, min_overlap=0.9)
        log.step()
        log.report()
        log.step()
        built = log.state.upcoming
        assert built is not None
        assert log.rest(shadows=shadow(Y, built.build_epoch, 200, overlap), now_ms=59_999)
        for others in (shadow(Z, built.build_epoch, 200, overlap), shadow(Y, 1, 200, overlap),
                       shadow(Y, built.build_epoch, 98, overlap)):  # fmt: skip
            assert log.rest(shadows=others, now_ms=60_000)
        assert log.step(shadows=shadow(Y, built.build_epoch, 200, overlap))["decision"] == decision
        assert f"{overlap:.3f} over 200 requests" in log.said[-1]["reason"]


def test_a_pause_holds_until_it_is_resumed_or_promoted() -> None:
    """Nothing goes on by itself while paused, neither a rejection nor a covered version; a promotion is an order."""
    log = Log()
    log.ask("publish")
    log.ask("pause")
    assert log.rest(checked={0: "bad"}) and log.rest(checked=GOOD)
    log.ask("resume")
    log.step()
    log.report()
    log.step()
    log.ask("pause")
    assert log.rest()
    assert (log.ask("promote")["decision"], log.state.live and log.state.live.paused) == ("live", False)


def test_a_roll_back_during_a_build_cancels_it() -> None:
    """The retained version is live in one decision, and the version in work and the one waiting are both retired."""
    log = Log()
    log.raise_(X)
    log.raise_(Y)
    log.ask("publish", Z)
    log.step(checked={0: "", 1: "", 2: ""})
    log.ask("publish", NAMES[4])
    log.ask("rollback", Y)
    assert {each.name: each.phase for each in log.state.versions} == {
        X: Phase.LIVE, Y: Phase.RETIRED, Z: Phase.RETIRED, NAMES[4]: Phase.RETIRED,
    }  # fmt: skip
    assert log.rest()


def keeps_its_promises(world: World, record: RolloutEvent, before: Rollout, state: Rollout) -> None:
    """What every decision that counts must keep, whoever made it of whatever view."""
    assert state.epoch == before.epoch + 1
    assert state.live or not before.live
    for phases in ((Phase.LIVE,), (Phase.RETAINED,), (Phase.BUILDING, Phase.COVERED)):
        assert sum(each.phase in phases for each in state.versions) <= 1
    assert len(state.fed) == sum(each.fed for each in state.versions), "a slot is shared"
    version = state.get(record["version"])
    if record["decision"] in ("cover", "live"):
        assert version is not None
        assert world.covered_share(version) >= version.terms.gate, f"{record['decision']} below the gate"
    if record["command_offset"] < 0:
        return
    assert record["command_offset"] == before.next_command, "a command was lost or carried out twice"
    asked = world.commands[record["command_offset"]]
    if asked["command"] == "rollback" and before.live and before.retained:
        if asked["version"] in ("", before.live.name):
            assert state.live == replace(before.retained, phase=Phase.LIVE, since_ms=ANY, reason=ANY)
            assert not on_the_way(state), "a build outlived a roll-back"
        else:
            assert (record["decision"], state.versions) == ("refuse", before.versions)


@pytest.fixture(scope="module")
def seen() -> Counter[Any]:
    """Transitions and refusals that the schedules came across."""
    found: Counter[Any] = Counter()
    for seed in range(800):
        world = World(seed, keeps_its_promises)
        world.run(600)
        world.settle()
        assert world.state.next_command == len(world.commands), "a command was not decided on"
        assert all(each.paused or not each.terms.auto for each in on_the_way(world.state)), "it stands still"
        found.update(world.seen)
    return found


def test_no_schedule_breaks_a_promise(seen: Counter[Any]) -> None:
    """With stale coordinators, crashes, take-overs and clock jumps all is kept, and every transition happens."""
    assert set(TRANSITIONS) <= set(seen)
    assert seen["late"] > 1000, "no two coordinators met"


def test_the_schedules_come_across_every_refusal(seen: Counter[Any]) -> None:
    """Every reason to refuse a command that the state can give was given in some schedule, not in the examples only."""
    refusals = {each for each in seen if isinstance(each, tuple) and isinstance(each[1], str)}
    for _, asked, _, _, why in REFUSED:
        assert any(each[0] == asked and why.replace(Y, "") in each[1] for each in refusals), (asked, why)


def test_publishes_that_race_end_with_the_last_one() -> None:
    """Where operators only publish, and no one pauses, the last version that was taken ends live, or is rejected."""
    ends: Counter[Phase] = Counter()
    for seed in range(200):
        taken: list[str] = []

        def note(world: World, record: RolloutEvent, before: Rollout, state: Rollout, taken: list[str] = taken) -> None:
            keeps_its_promises(world, record, before, state)
            taken += [record["version"]] if record["decision"] == "accept" else []

        world = World(seed, note)
        world.asked = ("publish",)
        world.auto_share = 1.0
        world.run(600)
        world.settle()
        if taken:
            last = world.state.get(taken[-1])
            assert last is not None
            ends[last.phase] += 1
    assert set(ends) == {Phase.LIVE, Phase.REJECTED}
