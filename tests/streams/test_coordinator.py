"""The coordinator on real topics: commands and progress in, decisions out, whoever else decides beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from coordinating import Coordinating, Log
from fleet import create_topics
from plain_artifact import digest_of, plain_artifact
from prometheus_client import REGISTRY

from domain.rollout import Phase, Rollout, folded
from schemas.deployment import Deployment
from schemas.errors import Unavailable
from streams.coordinator import Coordinator, _Silence
from streams.dead_letters import LetterLog
from streams.rollout_inputs import RolloutInputs


class Nothing:
    """A follower to whom nothing is ever told."""

    state = Rollout()
    knows_all = True

    async def read_to_end(self) -> None:
        """See streams.coordinator.Follower."""

    async def changed(self, since: Rollout) -> Rollout:
        """See streams.coordinator.Follower."""
        await asyncio.Event().wait()
        return since


def test_without_a_broker_it_gives_up_after_its_budget(caplog: pytest.LogCaptureFixture) -> None:
    """It tries again while the budget lasts, saying so, and then ends with what the worker ends with: Unavailable."""
    nowhere = Deployment(bootstrap_servers="127.0.0.1:1")
    coordinator = Coordinator(nowhere, Nothing(), lambda: True, broker_budget_s=0.5)
    with pytest.raises(Unavailable, match="writing rollout"):
        asyncio.run(asyncio.wait_for(coordinator.run(), 20))
    assert sum("roll-outs wait" in each.message for each in caplog.records) >= 2


def on_topics(deployment: Deployment, story: Callable[[Log], Awaitable[None]]) -> None:
    """Run a story on new topics."""
    create_topics(deployment)

    async def run() -> None:
        async with Log(deployment) as log:
            await story(log)

    asyncio.run(run())


async def comes_true(holds: Callable[[], object]) -> None:
    """Wait until something holds that tells nobody."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def decided(log: Log) -> list[tuple[str, str]]:
    """Decisions that count: what and by whom, in order."""
    state, counted = Rollout(), []
    for event in log.events:
        before, state = state, state.applied(event)
        if state is not before:
            counted.append((event["decision"], event["by"]))
    return counted


@pytest.mark.broker
def test_from_publishing_to_the_roll_back(deployment: Deployment, tmp_path: Path) -> None:
    """Two versions are published, checked, built and go live; a roll-back makes the first one live again."""

    async def story(log: Log) -> None:
        first, second = plain_artifact(tmp_path / "1"), plain_artifact(tmp_path / "2", training={"seed": 2})
        async with Coordinating(log):
            name = await log.publish(first, published_by="ann")
            await log.built(name)
            await log.until(lambda state: state.live)
            other = await log.publish(second, published_by="bob")
            await log.built(other)
            state = await log.until(lambda state: state.retained)
            assert state.live and state.retained and (state.live.name, state.retained.name) == (other, name)
            await log.command("rollback", published_by="cy")
            state = await log.until(lambda state: state.live and state.live.name == name)
            assert state.get(other).phase is Phase.RETIRED  # type: ignore[union-attr]
        went = [("build", "coordinator"), ("cover", "coordinator"), ("live", "coordinator")]
        assert decided(log) == [("accept", "ann"), *went, ("accept", "bob"), *went, ("rollback", "cy")]

    on_topics(deployment, story)


@pytest.mark.broker
def test_a_bad_artifact_is_rejected_with_the_reason(deployment: Deployment, tmp_path: Path) -> None:
    """What fails its checks is never built, and the decision says why."""

    async def story(log: Log) -> None:
        folder = plain_artifact(tmp_path / "a")
        (folder / "head.npz").write_bytes(b"")
        async with Coordinating(log):
            name = await log.publish(folder)
            state = await log.until(lambda state: (found := state.get(name)) and found.phase is Phase.REJECTED)
            assert "head.npz has sha256" in state.get(name).reason  # type: ignore[union-attr]

    on_topics(deployment, story)


@pytest.mark.broker
def test_what_is_no_command_is_a_dead_letter_and_stepped_over(deployment: Deployment, tmp_path: Path) -> None:
    """Junk on model-versions has one dead letter, is refused once, and the command behind it is decided on."""

    async def story(log: Log) -> None:
        await log.junk("model-versions")
        await log.junk("build-progress")
        await log.command("pause", "0" * 16)
        for _ in range(2):  # the second one finds all decided
            async with Coordinating(log):
                await log.until(lambda state: state.next_command == 2)
        assert [event["command_offset"] for event in log.events] == [0, 1]
        assert "no such version" in log.state.refusals[-1]["reason"]
        async with LetterLog(log.deployment, "model-versions") as letters:
            [entry] = (await letters.entries()).values()
        assert entry.reason == "not_single_object"

    on_topics(deployment, story)


@pytest.mark.broker
def test_how_far_a_build_is_can_be_watched(deployment: Deployment, tmp_path: Path) -> None:
    """Metrics of the coordinator's worker show items, rows and time left of the build, and nothing once it is over."""

    async def story(log: Log) -> None:
        async with Coordinating(log):
            name = await log.publish(plain_artifact(tmp_path / "a"))
            state = await log.until(lambda state: (found := state.get(name)) and found.phase is Phase.BUILDING)
            for partition in range(deployment.partitions):
                await log.progress(name, partition, state.versions[0].build_epoch, done=False)
            await comes_true(lambda: _items("written") == 18)
            assert (_items("all"), REGISTRY.get_sample_value("aif_build_seconds_left")) == (20, 0.2)
            await log.built(name)
            await log.until(lambda state: state.live)
        assert _items("all") == 0

    on_topics(deployment, story)


def _items(counted: str) -> float | None:
    return REGISTRY.get_sample_value("aif_build_items", {"counted": counted})


@pytest.mark.broker
def test_only_the_owner_decides_while_it_does(deployment: Deployment, tmp_path: Path) -> None:
    """Beside a coordinator that answers the others write nothing, stale or not; with the partition they take up all."""

    async def story(log: Log) -> None:
        folder = plain_artifact(tmp_path / "a")
        async with Coordinating(log) as owner, Coordinating(log, owns=False) as other:
            before = stood_in()
            name = await log.publish(folder)
            for _ in range(10):
                await log.command("pause", name)
                last = await log.command("resume", name)
                await asyncio.sleep(0.05)
            await log.until(lambda state: state.next_command == last + 1)
            assert (len(log.events), stood_in()) == (log.state.epoch, before), "two wrote decisions"
            owner.owns, other.owns = False, True
            await log.until(lambda state: (found := state.get(name)) and found.phase is Phase.BUILDING)

    on_topics(deployment, story)


def stood_in() -> float:
    """Commands that workers of this process decided on in the place of a coordinator."""
    return REGISTRY.get_sample_value("aif_rollout_stood_in_total") or 0.0


@pytest.mark.broker
def test_another_worker_stands_in_for_a_dead_coordinator(deployment: Deployment, tmp_path: Path) -> None:
    """Nobody owns the partition: commands are decided on all the same, junk among them, and nothing else is."""

    async def story(log: Log) -> None:
        first, second = plain_artifact(tmp_path / "1"), plain_artifact(tmp_path / "2", training={"seed": 2})
        async with Coordinating(log) as owner, Coordinating(log, owns=False, stand_in_after_s=0.6) as other:
            for folder in (first, second):
                name = await log.publish(folder)
                await log.built(name)
                await log.until(lambda state, name=name: state.live and state.live.name == name)
            await owner.kill()
            before = stood_in()
            await log.junk("model-versions")
            last = await log.command("rollback", published_by="ann")
            third = await log.publish(plain_artifact(tmp_path / "3", training={"seed": 3}))
            state = await log.until(lambda state: state.next_command == last + 2)
            assert state.live is not None and state.live.name == digest_of(first)[:16]
            assert [each["decision"] for each in log.events[-3:]] == ["refuse", "rollback", "accept"]
            await comes_true(lambda: stood_in() == before + 3)
            async with LetterLog(log.deployment, "model-versions") as letters:
                assert len(await letters.entries()) == 1
            await asyncio.sleep(0.3)
            assert state.get(third).phase is Phase.PUBLISHED, "building is the owner's to decide"  # type: ignore[union-attr]
            other.owns = True
            await log.built(third)
            await log.until(lambda state: state.live and state.live.name == third)

    on_topics(deployment, story)


@pytest.mark.broker
def test_who_may_not_know_all_decisions_does_not_stand_in(deployment: Deployment) -> None:
    """After a decision that its build cannot read a worker leaves commands alone: its own would count for it alone."""

    async def story(log: Log) -> None:
        async with Coordinating(log, owns=False, stand_in_after_s=0.1) as worker:
            log.knows_all = False
            await log.command("pause", "0" * 16)
            await asyncio.sleep(1)
            assert log.events == []
            worker.owns = True  # nobody else can: a record that nobody can read must not end all roll-outs
            await log.until(lambda state: state.next_command == 1)

    on_topics(deployment, story)


def test_silence_is_counted_from_the_last_decision() -> None:
    """A burst of commands that are decided on one by one is no silence, nor is a log without commands."""
    now_s, silence = [0.0], _Silence(2.0, lambda: now_s[0])

    def over(at_s: float, next_command: int, *, asks: bool) -> bool:
        now_s[0] = at_s
        return silence.over(Rollout(next_command=next_command), asks=asks)

    assert not any(over(number, number, asks=True) for number in range(10))
    assert not any(over(10 + number, 10, asks=False) for number in range(10))
    assert [over(at_s, 10, asks=True) for at_s in (19.5, 21.0, 21.1, 25.0)] == [False, False, True, True]
    assert not over(25.1, 11, asks=True)
    silence.broken(Rollout(next_command=11))
    assert not over(27.1, 11, asks=True)


@pytest.mark.broker
def test_it_is_told_which_reports_are_outdated(deployment: Deployment, tmp_path: Path) -> None:
    """Those of versions that are gone or were never heard of, whoever coordinates, until they are deleted."""

    async def story(log: Log) -> None:
        await log.progress("never heard of", 0, 1, done=True)
        async with Coordinating(log), Coordinating(log, owns=False) as other:
            name = await log.publish(plain_artifact(tmp_path / "a"), auto=False)
            await log.built(name)
            await log.until(lambda state: state.get(name).phase is Phase.COVERED)  # type: ignore[union-attr]
            await log.command("retire", name)
            every = {("never heard of", 0), *((name, partition) for partition in range(deployment.partitions))}
            await comes_true(lambda: other.outdated and other.outdated[-1] == every)
            assert other.outdated[0] == {("never heard of", 0)}, "it is fed"
            for version, partition in every:
                await log.withdraw(version, partition)
            await comes_true(lambda: not other.outdated[-1])

    on_topics(deployment, story)


@pytest.mark.broker
def test_two_at_once_converge(deployment: Deployment, tmp_path: Path) -> None:
    """Two that both own all the while, one killed and replaced, and two that stand in at once: commands count once."""
    folders = [plain_artifact(tmp_path / str(seed), training={"seed": seed}) for seed in range(3)]

    async def story(log: Log) -> None:
        hasty = [Coordinating(log, owns=False, stand_in_after_s=0.0) for _ in range(2)]
        async with Coordinating(log), Coordinating(log) as one, hasty[0], hasty[1]:
            for number, folder in enumerate(folders):
                name = await log.publish(folder)
                await log.command("pause", name)
                await log.command("resume", name)
                await log.built(name)
                await log.until(lambda state, name=name: state.live and state.live.name == name)
                if number == 1:
                    await one.kill()
                    another = Coordinating(log)
            await log.command("rollback")
            last = await log.command("rollback")
            state = await log.until(lambda state: state.next_command == last + 1)
            await another.kill()
        assert state.live is not None and state.live.name == digest_of(folders[1])[:16]
        state, offsets = Rollout(), []
        for event in log.events:
            before, state = state, state.applied(event)
            if state is not before and event["command_offset"] >= 0:
                offsets.append(event["command_offset"])
        assert offsets == list(range(last + 1))
        assert folded(log.events).epoch == len(decided(log)) <= len(log.events)

    on_topics(deployment, story)


@pytest.mark.broker
def test_the_newest_report_of_each_partition_counts(deployment: Deployment) -> None:
    """Inputs hold the newest progress by version and partition, and commands from the first undecided one on."""

    async def story(log: Log) -> None:
        for offset in range(3):
            assert await log.command("pause", f"{offset:016x}") == offset
        await log.progress("a", 0, 1, done=False)
        await log.progress("a", 1, 1, done=True)
        await log.progress("a", 0, 1, done=True)
        async with RolloutInputs(deployment, next_command=1) as inputs:
            found = inputs.of(Rollout(), {})
        assert [(offset, command and command["version"]) for offset, command in found.commands] == [
            (1, f"{1:016x}"), (2, f"{2:016x}"),
        ]  # fmt: skip
        assert {at: report["done"] for at, report in found.progress.items()} == {("a", 0): True, ("a", 1): True}
        assert inputs.of(Rollout(next_command=2), {}).commands == found.commands[1:]

    on_topics(deployment, story)
