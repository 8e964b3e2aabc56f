"""Coordinators on real topics, without workers: who writes commands and progress to them, and who follows decisions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from plain_artifact import digest_of

from domain.rollout import Phase, Rollout
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.records import RolloutEvent
from streams.coordinator import STAND_IN_AFTER_S, Coordinator


class Log:
    """The topics of roll-outs, written as operators and workers write them, and a follower of the decisions."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._tp = TopicPartition(deployment.topic("rollout"), 0)
        self.events: list[RolloutEvent] = []
        self.state = Rollout()
        self.knows_all = True
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> Log:
        servers = self.deployment.bootstrap_servers
        self._producer = AIOKafkaProducer(bootstrap_servers=servers)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        await self._producer.start()
        await self._consumer.start()
        self._consumer.assign([self._tp])
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

    async def read_to_end(self) -> None:
        """See streams.coordinator.Follower."""
        end = (await self._consumer.end_offsets([self._tp]))[self._tp]
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.events) >= end)

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

    async def withdraw(self, version: str, partition: int) -> None:
        """The partition's owner deletes what it said of a version."""
        await self._send("build-progress", f"{version}/{partition}".encode(), None)

    async def junk(self, topic: str) -> None:
        """Bytes that are no record."""
        await self._send(topic, b"junk", b"junk")

    async def _send(self, topic: str, key: bytes, value: bytes | None) -> Any:
        return await self._producer.send_and_wait(self.deployment.topic(topic), value, key=key, partition=0)


class Coordinating:
    """A worker's coordinator at work; `owns` is whether the worker owns the partition."""

    def __init__(self, log: Log, *, owns: bool = True, stand_in_after_s: float = STAND_IN_AFTER_S) -> None:
        self.owns = owns
        self.outdated: list[frozenset[tuple[str, int]]] = []  #: as it was told, one after the other
        coordinator = Coordinator(
            log.deployment, log, lambda: self.owns, stand_in_after_s=stand_in_after_s, outdated=self.outdated.append
        )
        self._task = asyncio.create_task(coordinator.run())

    async def __aenter__(self) -> Coordinating:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """End it wherever it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@contextmanager
def coordinated(deployment: Deployment) -> Iterator[None]:
    """A coordinator at work in a thread; the topics must exist."""
    began, done = threading.Event(), threading.Event()

    async def coordinate() -> None:
        async with Log(deployment) as log, Coordinating(log):
            began.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(coordinate()))
    thread.start()
    try:
        assert began.wait(20)
        yield
    finally:
        done.set()
        thread.join()
