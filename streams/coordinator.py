"""The coordinator: writes the decisions of a roll-out, one after the other, to topic `rollout`.

A task of every worker, which decides while the worker owns partition 0 of item-updates:

    read inputs ─► decide ─► write the decision ─► wait until the follower has folded past it ─► decide again

After the owner's end nobody owns the partition until its session with the broker has ended too. An operator's command
does not wait for that: where none was decided on for STAND_IN_AFTER_S while one waits, any other worker stands in and
decides on commands, and on nothing else. Two that decide for a moment do no harm: a decision is a compare-and-set, and
of two made of the same state the first in the log counts (domain/rollout.py). What is decided stands in
domain/decisions.py; here are the clock, the broker and the turn.

Nothing is kept between two decisions but what the topics say, so whoever decides next goes on where the last one
stopped.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

from aiokafka import AIOKafkaProducer

from domain.decisions import coverage_of, decide, decide_on_command
from domain.rollout import Phase, Rollout
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Unavailable
from schemas.records import RolloutEvent
from streams import metrics
from streams.artifact_checks import ArtifactChecks
from streams.changelog import translated
from streams.rollout_inputs import COMMANDS, RolloutInputs

__all__ = ["STAND_IN_AFTER_S", "Coordinator", "Follower"]

logger = logging.getLogger(__name__)

#: A coordinator that runs decides on a command in some 20 ms. Each worker waits up to half as long again, by chance, so
#: that most of the time one of them stands in.
STAND_IN_AFTER_S: Final = 2.0
#: The constant key of rollout.
_KEY: Final = b"rollout"
#: How often the clock, verdicts and the partition's ownership are looked at; commands are answered when they come.
_LOOK_S: Final = 0.1
_FOLDED_WITHIN_S: Final = 30.0
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 5.0


class Follower(Protocol):
    """Folds topic rollout for the life of the worker."""

    @property
    def state(self) -> Rollout:
        """What was folded so far."""

    @property
    def knows_all(self) -> bool:
        """Whether no decision so far was of a schema that this build does not know."""

    async def read_to_end(self) -> None:
        """Wait until all that the topic holds now is folded."""

    async def changed(self, since: Rollout) -> Rollout:
        """The state, as soon as it is another than this one."""


class Coordinator:
    """Decides while `owns()`, and stands in for who owns where that one is silent; see the module."""

    def __init__(
        self, deployment: Deployment, follower: Follower, owns: Callable[[], bool], *,
        broker_budget_s: float = 60.0, stand_in_after_s: float = STAND_IN_AFTER_S,
        outdated: Callable[[frozenset[tuple[str, int]]], None] = lambda reports: None,
    ) -> None:  # fmt: skip
        """`outdated` is called with the versions and partitions whose reports say nothing any more, when they change.

        Also where this worker does not coordinate: the partitions' owners delete them.
        """
        self._deployment, self._follower, self._owns = deployment, follower, owns
        self._broker_budget_s = broker_budget_s
        self._topic = deployment.topic("rollout")
        self._silence = _Silence(stand_in_after_s * random.uniform(1.0, 1.5))
        self._failing_since: float | None = None
        self._outdated, self._told_outdated = outdated, frozenset[tuple[str, int]]()

    async def run(self) -> None:
        """Coordinate until cancelled. Raises Unavailable where the broker is gone for longer than the budget."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                await self._attend()
            except Unavailable as error:
                wait_s = _FIRST_WAIT_S if self._failing_since is None else min(2 * wait_s, _LONGEST_WAIT_S)
                self._failing_since = self._failing_since or time.monotonic()
                if time.monotonic() - self._failing_since > self._broker_budget_s:
                    raise
                logger.warning("roll-outs wait: %s; trying again in %.1f s", error, wait_s)
                await asyncio.sleep(wait_s)

    async def _attend(self) -> None:
        """Read what there is to decide on, owner or not, and decide where that is this worker's to do."""
        checks = ArtifactChecks(self._deployment)
        producer = AIOKafkaProducer(
            bootstrap_servers=self._deployment.bootstrap_servers, acks="all", enable_idempotence=True
        )
        try:
            with translated(f"writing {self._topic}"):
                await producer.start()
            await self._follower.read_to_end()  # what is decided already need not be decided once more
            async with RolloutInputs(self._deployment, self._follower.state.next_command) as inputs:
                self._failing_since = None
                while True:
                    await self._read(inputs)
                    if self._owns():
                        await self._own(inputs, checks, producer)
                    elif self._silence.over(self._follower.state, asks=inputs.asks(self._follower.state)):
                        await self._stand_in(inputs, producer)
        finally:
            metrics.build(None)
            checks.stop()
            await producer.stop()

    async def _read(self, inputs: RolloutInputs) -> None:
        """Take in what comes, and tell what of it is outdated."""
        await inputs.read(int(1000 * _LOOK_S))
        fed = {version.name for version in self._follower.state.fed.values()}
        outdated = frozenset(each for each in inputs.reported if each[0] not in fed)
        # With a decision unknown, what seems to be gone may be building.
        if outdated != self._told_outdated and self._follower.knows_all:
            self._told_outdated = outdated
            self._outdated(outdated)

    async def _own(self, inputs: RolloutInputs, checks: ArtifactChecks, producer: AIOKafkaProducer) -> None:
        """Decide on everything, to the end of the ownership."""
        await self._follower.read_to_end()
        logger.info("coordinates roll-outs from epoch %d on", self._follower.state.epoch)
        try:
            while self._owns():
                await self._step(inputs, checks, producer)
                await self._read(inputs)
        finally:
            metrics.build(None)
            checks.stop()
            self._silence.broken(self._follower.state)
        logger.info("coordinates no more: another worker has partition 0 of item-updates")

    async def _step(self, inputs: RolloutInputs, checks: ArtifactChecks, producer: AIOKafkaProducer) -> None:
        """Write what follows from what was read, decision after decision."""
        await self._send_letters(inputs, producer)
        while self._owns():
            state = self._follower.state
            checks.look_at(state.versions)
            known = inputs.of(state, checks.verdicts)
            coming = state.upcoming
            building = coming is not None and coming.phase is Phase.BUILDING
            metrics.build(coverage_of(coming, known.progress, known.partitions) if coming and building else None)
            event = decide(state, known)
            if event is None:
                return
            await self._write(event, producer)

    async def _stand_in(self, inputs: RolloutInputs, producer: AIOKafkaProducer) -> None:
        """Decide on the commands that wait. The owner may come back meanwhile, and others stand in as well."""
        await self._follower.read_to_end()  # a worker that stood still itself finds here that all is decided
        if not self._follower.knows_all:
            # Its state may not be that of the log: what it wrote would count here, and nowhere else.
            return self._silence.broken(self._follower.state)
        if not inputs.asks(self._follower.state):
            return None
        logger.warning("a command waits and none is decided on, for %.1f s: standing in", self._silence.lasts_s)
        await self._send_letters(inputs, producer)
        while (event := decide_on_command(self._follower.state, inputs.of(self._follower.state, {}))) is not None:
            await self._write(event, producer)
            metrics.stood_in.inc()

    async def _send_letters(self, inputs: RolloutInputs, producer: AIOKafkaProducer) -> None:
        for key, value in inputs.letters.values():
            with translated("writing a dead letter"):
                await producer.send_and_wait(self._deployment.dead_letters(COMMANDS), value, key=key)
        inputs.letters.clear()

    async def _write(self, event: RolloutEvent, producer: AIOKafkaProducer) -> None:
        with translated(f"writing {self._topic}"):
            await producer.send_and_wait(self._topic, codec("rollout_event").encode(event), key=_KEY, partition=0)
        try:
            async with asyncio.timeout(_FOLDED_WITHIN_S):
                state = self._follower.state
                while state.epoch < event["epoch"]:
                    state = await self._follower.changed(state)
        except TimeoutError as error:
            raise Unavailable(
                f"the decision of epoch {event['epoch']} was not read back within {_FOLDED_WITHIN_S:.0f} s"
            ) from error
        metrics.decided.labels(event["decision"]).inc()
        logger.info("epoch %d: %s %s: %s", event["epoch"], event["decision"], event["version"], event["reason"])


class _Silence:
    """For how long commands wait and none is decided on, by a clock that does not jump."""

    def __init__(self, most_s: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._now_s = most_s, monotonic_s
        self._next_command = -1
        self._since_s = 0.0

    @property
    def lasts_s(self) -> float:
        """Seconds since a command was decided on, or came where none waited."""
        return self._now_s() - self._since_s

    def over(self, state: Rollout, *, asks: bool) -> bool:
        """Whether it has lasted too long; `asks` is whether a command waits in this state."""
        if not asks or state.next_command != self._next_command:
            self.broken(state)
        return self.lasts_s > self._most_s

    def broken(self, state: Rollout) -> None:
        """It begins anew."""
        self._next_command, self._since_s = state.next_command, self._now_s()
