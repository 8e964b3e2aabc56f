"""The state that a log of decisions makes: the table of transitions, in full, and what no log whatever can break."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import rollout
from domain.rollout import SLOTS, TRANSITIONS, Decision, Phase, Rollout, folded
from schemas.records import RolloutEvent

NAMES = tuple(f"{number:016x}" for number in range(1, 5))
X, Y = NAMES[:2]


def event(epoch: int, decision: str, version: str = X, **said: Any) -> RolloutEvent:
    """A decision, of no command unless one is given."""
    record: Any = {
        "epoch": epoch, "event_time_ms": 1000 * epoch, "decision": decision, "version": version, "slot": "",
        "command_offset": -1, "uri": f"/{version}", "manifest_sha256": version, "gate": 0.9, "auto": True,
        "shadow_s": 0, "min_overlap": 0.0, "retain_s": 60, "by": "op", "reason": decision,
    }  # fmt: skip
    return {**record, **said}


def after(*decisions: tuple[str, str], slots: tuple[str, ...] = SLOTS) -> Rollout:
    """The state after decisions that all count."""
    state = Rollout()
    for decision, version in decisions:
        slot = next(slot for slot in slots if slot not in state.fed) if decision == "build" else ""
        state, before = state.applied(event(state.epoch + 1, decision, version, slot=slot)), state
        assert state.epoch == before.epoch + 1, f"{decision} of {version} does not count"
    return state


def raised(version: str) -> tuple[tuple[str, str], ...]:
    """From nothing to live."""
    return tuple((decision, version) for decision in ("accept", "build", "cover", "live"))


#: How X comes to each phase; beside it, where there is one, Y is what a roll-back would go to.
WAYS: dict[Phase | None, tuple[tuple[str, str], ...]] = {
    None: raised(Y),
    Phase.PUBLISHED: (*raised(Y), ("accept", X)),
    Phase.BUILDING: (*raised(Y), ("accept", X), ("build", X)),
    Phase.COVERED: (*raised(Y), ("accept", X), ("build", X), ("cover", X)),
    Phase.LIVE: (*raised(Y), *raised(X)),
    Phase.RETAINED: (*raised(X), *raised(Y)),
    Phase.RETIRED: (*raised(Y), ("accept", X), ("retire", X)),
    Phase.REJECTED: (*raised(Y), ("accept", X), ("reject", X)),
}


@pytest.mark.parametrize(("phase", "decision"), [*product([None, *Phase], Decision)], ids=str)
def test_a_version_moves_as_the_table_says_and_no_other_way(phase: Phase | None, decision: Decision) -> None:
    """Every decision about a version in every phase leads where TRANSITIONS says, or changes nothing at all."""
    state = after(*WAYS[phase])
    now = state.applied(event(state.epoch + 1, decision, slot=next(slot for slot in SLOTS if slot not in state.fed)))
    version = now.get(X)
    if decision is Decision.REFUSE:
        assert (now.versions, now.epoch) == (state.versions, state.epoch + 1)
        assert [refusal["decision"] for refusal in now.refusals] == ["refuse"]
    elif (phase, decision) in TRANSITIONS:
        assert version is not None
        assert (version.phase, now.epoch) == (TRANSITIONS[phase, decision], state.epoch + 1)
        assert bool(version.slot) == version.fed
    else:
        assert now is state


def test_the_table_in_the_docstring_is_the_table() -> None:
    """The module's docstring names the phases of each decision as TRANSITIONS has them."""
    rows = re.findall(r"^([A-Z]+) +([A-Za-z, ]+?)(?:  +|$)", rollout.__doc__ or "", re.MULTILINE)
    told = {(Decision(name.lower()), phase) for name, phases in rows for phase in phases.split(", ")}
    wanted = {(decision, phase.name if phase else "none") for phase, decision in TRANSITIONS}
    assert told == wanted | {(Decision.REFUSE, "any"), (Decision.REFUSE, "none")}


def test_going_live_and_back_moves_three_versions_at_once() -> None:
    """LIVE keeps the one before and lets go of the one before that; ROLLBACK undoes it and ends what was next."""
    three = (*raised(NAMES[0]), *raised(NAMES[1]), *raised(NAMES[2]))
    state = after(*three)
    assert [each.phase for each in state.versions] == [Phase.RETIRED, Phase.RETAINED, Phase.LIVE]
    state = after(*three, ("accept", NAMES[3]), ("build", NAMES[3]), ("rollback", NAMES[2]))
    assert [each.phase for each in state.versions] == [Phase.RETIRED, Phase.LIVE, Phase.RETIRED, Phase.RETIRED]
    assert list(state.fed.values()) == [state.live]


def test_there_is_no_way_back_without_a_retained_version() -> None:
    """ROLLBACK of the only version that was ever live changes nothing: it goes on answering."""
    state = after(*raised(X))
    assert state.applied(event(state.epoch + 1, "rollback")) is state


def test_a_build_takes_a_free_slot_and_no_other() -> None:
    """BUILD counts with a slot that exists and holds nobody's rows, and only while nothing else is on its way."""
    state = after(*raised(Y), ("accept", X))
    taken = next(iter(state.fed))
    for slot in (taken, "", "n2o_d"):
        assert state.applied(event(state.epoch + 1, "build", slot=slot)) is state
    built = after(*raised(Y), ("accept", X), ("build", X), ("accept", NAMES[2]))
    assert built.applied(event(built.epoch + 1, "build", NAMES[2], slot=built.free_slot)) is built
    assert built.get(X) and built.get(X).build_epoch == built.epoch - 1  # type: ignore[union-attr]


def test_only_what_is_on_its_way_is_paused() -> None:
    """A paused version that is promoted is live and not paused; one that is retired and published again neither."""
    promoted = after(("accept", X), ("build", X), ("cover", X), ("pause", X), ("live", X))
    again = after(("accept", X), ("pause", X), ("retire", X), ("accept", X))
    assert [each.paused for each in (*promoted.versions, *again.versions)] == [False, False]


def test_a_decision_counts_once_and_only_in_its_turn() -> None:
    """A decision of another epoch, or about a command already decided on, changes nothing: late writers do no harm."""
    state = Rollout().applied(event(1, "accept", command_offset=4))
    for late in (event(1, "accept", Y), event(3, "build", slot="n2o_a"), event(2, "pause", command_offset=4)):
        assert state.applied(late) is state
    assert state.applied(event(2, "pause", command_offset=5)).next_command == 6


def test_what_is_gone_is_remembered_for_a_while() -> None:
    """Of a thousand retired versions the newest 64 are known, and nothing that is in use is forgotten for them."""
    state = after(*raised(X))
    for number in range(1000):
        name = f"{number + 100:016x}"
        for decision in ("accept", "retire", "refuse"):
            state = state.applied(event(state.epoch + 1, decision, name))
    assert state.live and state.live.name == X
    assert [each.name for each in state.versions[1:]] == [f"{number + 100:016x}" for number in range(936, 1000)]
    assert len(state.refusals) == 16


@st.composite
def logs(draw: st.DrawFn) -> list[RolloutEvent]:
    """Decisions as a hostile writer would put them: most in their turn and of some effect, on any version."""
    log: list[RolloutEvent] = []
    state = Rollout()
    for _ in range(draw(st.integers(0, 40))):
        name = draw(st.sampled_from(NAMES))
        version = state.get(name)
        possible = [each for phase, each in TRANSITIONS if phase is (version.phase if version else None)]
        decision = draw(st.sampled_from(possible or list(Decision)) | st.sampled_from(list(Decision)))
        epoch = state.epoch + draw(st.sampled_from((1, 1, 1, 1, 1, 1, 0, 2, -3)))
        slot = draw(st.sampled_from((*SLOTS, *SLOTS, "", "n2o_d")))
        offset = draw(st.sampled_from((-1, state.next_command, 3)))
        log.append(event(epoch, decision, name, slot=slot, command_offset=offset))
        state = state.applied(log[-1])
    return log


@given(logs())
def test_no_log_breaks_the_state(log: list[RolloutEvent]) -> None:
    """Whatever is written: one live, one retained, one next; a slot each; epochs without gaps; never live no more."""
    state = Rollout()
    for record in log:
        before, state = state, state.applied(record)
        assert state is before or state.epoch == before.epoch + 1
        assert state.next_command >= before.next_command
        phases = [each.phase for each in state.versions]
        assert max(phases.count(Phase.LIVE), phases.count(Phase.RETAINED)) <= 1
        assert phases.count(Phase.BUILDING) + phases.count(Phase.COVERED) <= 1
        assert len(state.fed) == sum(each.fed for each in state.versions)
        assert all(each.slot in SLOTS if each.fed else not each.slot for each in state.versions)
        assert len({each.name for each in state.versions}) == len(phases)
        assert state.live or not before.live
        assert not any(each.paused for each in state.versions if TRANSITIONS.get((each.phase, Decision.PAUSE)) is None)


@given(logs(), st.randoms(use_true_random=False))
def test_repeated_and_late_records_change_nothing(log: list[RolloutEvent], chance: Any) -> None:
    """A log in which counted decisions come again, at once or much later, folds to the same state."""
    counted: list[RolloutEvent] = []
    state = Rollout()
    for record in log:
        state, before = state.applied(record), state
        counted += [record] if state is not before else []
    again = [
        each for number, record in enumerate(counted, 1) for each in (record, *chance.choices(counted[:number], k=2))
    ]
    assert folded(again) == state
