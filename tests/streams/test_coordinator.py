"""The coordinator on real topics: commands and progress in, decisions out, whoever else decides beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from fleet import create_topics
from plain_artifact import digest_of, plain_artifact

from domain.rollout import Phase, Rollout, folded
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.records import RolloutEvent
from streams.coordinator import Coordinator
from streams.dead_letters import LetterLog
from streams.rollout_inputs import RolloutInputs

pytestmark = pytest.mark.broker


class Log:
    """The topics of roll-outs, written as operators and workers write them, and a follower of the decisions."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.events: list[RolloutEvent] = []
        self.state = Rollout()
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> Log:
        servers = self.deployment.bootstrap_servers
        self._producer = AIOKafkaProducer(bootstrap_servers=servers)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        await self._producer.start()
        await self._consumer.start()
        self._consumer.assign([TopicPartition(self.deployment.topic("rollout"), 0)])
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await self._consumer.stop()
        await self._producer.stop()

    async def _follow(self) -> None:
        async for record in self._consumer:
            event: Any = codec("rollout_event").decode(record.value)
            self.events.append(event)
            async with self._moved:
                self.state = self.state.applied(event)
                self._moved.notify_all()

    async def changed(self, since: Rollout) -> Rollout:
        """See streams.coordinator.Follower."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.state is not since)
        return self.state

    async def until(self, holds: Callable[[Rollout], object]) -> Rollout:
        """The state as soon as something holds of it."""
        async with asyncio.timeout(20), self._moved:
            await self._moved.wait_for(lambda: holds(self.state))
        return self.state

    async def command(self, command: str, version: str = "", folder: Path | None = None, **terms: Any) -> int:
        """An operator's command; its offset."""
        record = {
            "event_id": 1, "event_time_ms": 1, "version": version, "command": command, "uri": str(folder or ""),
            "manifest_sha256": digest_of(folder) if folder else "", **terms,
        }  # fmt: skip
        sent = await self._send("model-versions", b"model", codec("model_version").encode(record))
        return int(sent.offset)

    async def publish(self, folder: Path, **terms: Any) -> str:
        """The version of an artifact, published."""
        await self.command("publish", version := digest_of(folder)[:16], folder, **terms)
        return version

    async def built(self, version: str) -> None:
        """Say for every partition that the version's present build is done."""
        state = await self.until(lambda state: (found := state.get(version)) and found.phase is Phase.BUILDING)
        build = state.get(version)
        assert build is not None
        for partition in range(self.deployment.partitions):
            await self.progress(version, partition, build.build_epoch, done=True)

    async def progress(self, version: str, partition: int, build_epoch: int, *, done: bool) -> None:
        """What a worker says of its partition: ten items, nine rows so far or all."""
        record = {
            "version": version, "partition": partition, "build_epoch": build_epoch, "items": 10,
            "written": 10 if done else 9, "rejected": 0, "done": done, "items_per_s": 5.0, "problem": "",
            "worker": "w", "event_time_ms": 1,
        }  # fmt: skip
        await self._send("build-progress", f"{version}/{partition}".encode(), codec("build_progress").encode(record))

    async def junk(self, topic: str) -> None:
        """Bytes that are no record."""
        await self._send(topic, b"junk", b"junk")

    async def _send(self, topic: str, key: bytes, value: bytes) -> Any:
        return await self._producer.send_and_wait(self.deployment.topic(topic), value, key=key, partition=0)


def on_topics(deployment: Deployment, story: Callable[[Log], Awaitable[None]]) -> None:
    """Run a story on new topics."""
    create_topics(deployment)

    async def run() -> None:
        async with Log(deployment) as log:
            await story(log)

    asyncio.run(run())


class Coordinating:
    """A coordinator at work, whose ownership of the partition is `owns`."""

    def __init__(self, log: Log, *, owns: bool = True) -> None:
        self.owns = owns
        coordinator = Coordinator(log.deployment, log, lambda: self.owns)
        self._task = asyncio.create_task(coordinator.run())

    async def __aenter__(self) -> Coordinating:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """End it wherever it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def decided(log: Log) -> list[tuple[str, str]]:
    """Decisions that count: what and by whom, in order."""
    state, counted = Rollout(), []
    for event in log.events:
        before, state = state, state.applied(event)
        if state is not before:
            counted.append((event["decision"], event["by"]))
    return counted


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


def test_a_command_that_fits_nothing_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    """A version that is none and terms that make no sense, whoever wrote them, are refused and harm nothing."""

    async def story(log: Log) -> None:
        folder = plain_artifact(tmp_path / "a")
        async with Coordinating(log):
            await log.command("publish", "../../etc", folder)
            for terms in ({"gate": 1.5}, {"gate": float("nan")}, {"shadow_s": -1}, {"retain_s": 2**62}):
                await log.publish(folder, **terms)
            state = await log.until(lambda state: state.next_command == 5)
        assert state.versions == () and len(state.refusals) == 5
        assert "expected 16 hex digits" in state.refusals[0]["reason"]

    on_topics(deployment, story)


def test_only_the_owner_decides(deployment: Deployment, tmp_path: Path) -> None:
    """A worker without the partition writes nothing; once it owns it, it takes up what is waiting."""

    async def story(log: Log) -> None:
        name = await log.publish(plain_artifact(tmp_path / "a"))
        async with Coordinating(log, owns=False) as worker:
            await asyncio.sleep(0.5)
            assert log.events == []
            worker.owns = True
            await log.until(lambda state: (found := state.get(name)) and found.phase is Phase.BUILDING)

    on_topics(deployment, story)


def test_two_at_once_converge(deployment: Deployment, tmp_path: Path) -> None:
    """Two coordinators that both decide all the while, one killed and replaced: each command counts once, in order."""
    folders = [plain_artifact(tmp_path / str(seed), training={"seed": seed}) for seed in range(3)]

    async def story(log: Log) -> None:
        async with Coordinating(log), Coordinating(log) as one:
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
