"""A roll-out in memory, driven by a seed: operators, coordinators with stale views, workers, clocks that jump.

What is simulated is what Kafka and the workers promise, no more: logs that keep their order, decisions that arrive late
or from a coordinator that is no more, views that end anywhere and start again from the front, a partition whose new
owner has read the decisions to their end and begins its look at the items anew. Rows are kept as tables hold them, so
that coverage is counted from them and not from what workers say.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from domain.decisions import Inputs, decide, decide_on_command
from domain.rollout import Decision, Phase, Rollout, Version
from schemas.records import BuildProgress, ModelVersion, RolloutEvent, ShadowReport

PARTITIONS = 2
NAMES = tuple(f"{number:016x}" for number in range(1, 6))
ON_THE_WAY = (Phase.PUBLISHED, Phase.BUILDING, Phase.COVERED)
#: Items that no tower takes, and versions whose artifacts fail their checks, or on the workers only.
UNFIT_ITEM, BAD_ARTIFACT, BAD_TOWER = 0, NAMES[3], NAMES[4]


def command(asked: str, version: str, **terms: Any) -> ModelVersion:
    """An operator's command."""
    said: Any = {
        "event_id": 0, "event_time_ms": 0, "version": version, "manifest_sha256": version * 4, "uri": f"/{version}",
        "published_by": "op", "reason": asked, "command": asked, "gate": 0.5, "auto": True, "shadow_s": 0,
        "min_overlap": 0.0, "retain_s": 1000,
    }  # fmt: skip
    return {**said, **terms}


def shadowed(version: str, build_epoch: int, live: str, requests: int, overlap: float) -> ShadowReport:
    """What one node has measured."""
    said: Any = {"version": version, "build_epoch": build_epoch, "live": live, "node": "a", "requests": requests}
    sums = ("dropped", "incomparable", "failed", "correlation_sum", "drift_sum", "shift_sum", "live_ms_sum",
            "shadow_ms_sum")  # fmt: skip
    return {**dict.fromkeys(sums, 0), "event_time_ms": 0, "overlap_sum": overlap * requests, **said}


def on_the_way(state: Rollout) -> list[Version]:
    """Versions that may still go live."""
    return [each for each in state.versions if each.phase in ON_THE_WAY]


@dataclass
class Coordinator:
    """How far one coordinator has read each log; what it decides is made of no more."""

    clock_ms: int
    stands_in: bool = False  #: decides on commands alone
    commands: int = 0
    rollout: int = 0
    progress: int = 0
    checked: dict[int, str] = field(default_factory=dict)


@dataclass
class Owner:
    """The worker that has a partition: the decisions that it knows, and its look at the items for each build."""

    rollout: int
    done: dict[int, int] = field(default_factory=dict)  #: items looked at, by build epoch


class World:
    """All logs and tables. `states` holds the state after each record of `rollout`, counted or not.

    `counts` is called with each decision that counts and the states before and after it.
    """

    def __init__(self, seed: int, counts: Callable[[World, RolloutEvent, Rollout, Rollout], None]) -> None:
        self.random = random.Random(seed)
        self.counts = counts
        self.asked = (*8 * ("publish",), *3 * ("rollback",), "promote", "pause", "resume", "retire")
        self.auto_share = 0.7
        self.now_ms = 10**12
        self.commands: list[ModelVersion] = []
        self.rollout: list[RolloutEvent] = []
        self.progress: list[BuildProgress] = []
        self.states = [Rollout()]
        self.seen: Counter[Any] = Counter()  #: transitions, refusals, and decisions that did not count
        self.in_flight: list[tuple[Coordinator, RolloutEvent]] = []
        self.coordinators = [Coordinator(self.random.randint(-5000, 5000)) for _ in range(3)]
        self.owners = [Owner(0) for _ in range(PARTITIONS)]
        self.items = [[UNFIT_ITEM, *range(1, self.random.randint(2, 5))] for _ in range(PARTITIONS)]
        self.rows: list[dict[str, dict[int, str]]] = [{} for _ in range(PARTITIONS)]  #: partition: slot: item: version
        self.steps = (self.operate, self.coordinate, self.deliver, self.work, self.update, self.misfortune)

    @property
    def state(self) -> Rollout:
        """What all readers of the whole log agree on."""
        return self.states[-1]

    def run(self, steps: int) -> None:
        """So many steps of anybody; operators now hurry, now leave the fleet in peace."""
        while steps > 0:
            weights = (self.random.choice((0, 0, 1, 6)), 24, 8, 24, 4, self.random.choice((0, 3)))
            for step in self.random.choices(self.steps, weights, k=50):
                step()
            steps -= 50

    def operate(self) -> None:
        """An operator sends a command, or two race; some go back from what is live no more."""
        pick, asked = self.random.choice, self.random.choice(self.asked)
        version = self.state.live.name if self.state.live and asked == "rollback" else pick(3 * NAMES[:3] + NAMES)
        self.commands.append(
            command(
                asked, pick((*4 * (version,), "", "", NAMES[0])) if asked == "rollback" else version,
                manifest_sha256=version * 4 if self.random.random() < 0.95 else "another",
                gate=pick((0.5, 0.5, 0.5, 0.6, 0.9)), auto=self.random.random() < self.auto_share,
                shadow_s=pick((0, 0, 3)), min_overlap=pick((0.0, 0.0, 0.9)), retain_s=pick((5, 1000, 1000)),
            )
        )  # fmt: skip

    def coordinate(self, to_the_end: bool = False) -> None:
        """A coordinator reads on, each log as far as it happens to come, and writes what it decides from that."""
        one = self.coordinators[0] if self.random.random() < 0.8 else self.random.choice(self.coordinators)
        if any(writer is one for writer, _ in self.in_flight):
            return self.deliver()
        for log in ("commands", "rollout", "progress"):
            at, end = getattr(one, log), len(getattr(self, log))
            setattr(one, log, end if to_the_end else self.random.choice((end, end, self.random.randint(at, end))))
        state = self.states[one.rollout]
        for version in on_the_way(state):
            one.checked[version.offset] = "its checksum differs" if version.name == BAD_ARTIFACT else ""
        commands = list(enumerate(self.commands[: one.commands]))
        progress = {(each["version"], each["partition"]): each for each in self.progress[: one.progress]}
        now_ms = self.now_ms + one.clock_ms
        turn = decide_on_command if one.stands_in and not to_the_end else decide
        event = turn(state, Inputs(commands, progress, self.shadows(state), one.checked, PARTITIONS, now_ms))
        if event is not None:
            assert state.applied(event).epoch == state.epoch + 1, f"{event} does nothing: it is decided for ever"
            self.in_flight.append((one, event))

    def deliver(self) -> None:
        """A decision reaches the log, whether or not its writer still lives or is still right."""
        if not self.in_flight:
            return
        _, event = self.in_flight.pop(self.random.randrange(len(self.in_flight)))
        before = self.state
        self.rollout.append(event)
        self.states.append(before.applied(event))
        if self.state is before:
            self.seen["late"] += 1
            return
        self.counts(self, event, before, self.state)
        version, decision = before.get(event["version"]), Decision(event["decision"])
        if decision is Decision.REFUSE:
            self.seen[self.commands[event["command_offset"]]["command"], event["reason"].partition(": ")[2]] += 1
        else:
            self.seen[version.phase if version else None, decision] += 1

    def work(self) -> None:
        """An owner reads decisions, looks at some items for the build that it knows, empties slots, and reports."""
        partition = self.random.randrange(PARTITIONS)
        owner, items, rows = self.owners[partition], self.items[partition], self.rows[partition]
        owner.rollout = self.random.randint(owner.rollout, len(self.rollout))
        state = self.states[owner.rollout]
        for slot, kept in rows.items():
            version = state.fed.get(slot)
            for item in [each for each in kept if version is None or kept[each] != version.name][:2]:
                del kept[item]
        version = state.upcoming
        if version is None or version.phase is not Phase.BUILDING or version.paused:
            return
        at = owner.done.get(version.build_epoch, 0)
        upto = min(len(items), at + self.random.randint(0, 3))
        slot = rows.setdefault(version.slot, {})
        slot |= {item: version.name for item in items[at:upto] if item != UNFIT_ITEM}
        owner.done[version.build_epoch] = upto
        written = sum(slot.get(item) == version.name for item in items)
        self.progress.append(
            {
                "version": version.name, "partition": partition, "build_epoch": version.build_epoch,
                "items": len(items), "written": written, "rejected": max(0, upto - written), "done": upto == len(items),
                "items_per_s": 1.0, "worker": "w", "event_time_ms": self.now_ms,
                "problem": "its tower fails here" if version.name == BAD_TOWER else "",
            }
        )  # fmt: skip

    def update(self) -> None:
        """A live update of an old or a new item: into the slot of every version that the owner knows as fed."""
        partition = self.random.randrange(PARTITIONS)
        items, state = self.items[partition], self.states[self.owners[partition].rollout]
        item = self.random.randint(1, len(items))
        if item == len(items):
            items.append(item)
        for slot, version in state.fed.items():
            self.rows[partition].setdefault(slot, {})[item] = version.name

    def misfortune(self) -> None:
        """A crash, a take-over, a clock that jumps, time that passes."""
        self.now_ms += self.random.randint(0, 2000)
        number = self.random.randrange(3)
        if number == 0:
            number, clock_ms = self.random.randrange(3), self.random.randint(-20_000, 20_000)
            self.coordinators[number] = Coordinator(clock_ms, stands_in=clock_ms % 3 == 0)
            self.random.shuffle(self.coordinators)  # the first one works most
        elif number == 1:
            self.owners[self.random.randrange(PARTITIONS)] = Owner(len(self.rollout))
        else:
            self.random.choice(self.coordinators).clock_ms += self.random.choice((-4000, 4000))

    def shadows(self, state: Rollout) -> dict[tuple[str, str], ShadowReport]:
        """What a server has measured of each version beside the live one: some order as it does, some not."""
        live = state.live.name if state.live else ""
        return {
            (each.name, "node"): shadowed(each.name, each.build_epoch, live, 200, 0.95 if each.tag % 2 else 0.5)
            for each in state.versions
        }

    def covered_share(self, version: Version) -> float:
        """Items with a row of a version in its slot, of 1: counted in the tables."""
        items = sum(map(len, self.items))
        rows = [self.rows[partition].get(version.slot, {}) for partition in range(PARTITIONS)]
        written = sum(
            rows[partition].get(item) == version.name for partition, all_ in enumerate(self.items) for item in all_
        )
        return written / items

    def settle(self) -> None:
        """No more misfortune and no more commands: everybody reads to the end and works until nothing is decided."""
        calm = 0
        while calm < 6:
            epoch = self.state.epoch
            self.now_ms += 60_000
            for _ in range(12):
                self.coordinate(to_the_end=True)
                self.deliver()
                self.work()
            calm = calm + 1 if self.state.epoch == epoch and not self.in_flight else 0
            assert len(self.rollout) < 5000, "it never comes to rest"
