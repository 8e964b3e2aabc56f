"""The coordinator: writes the decisions of a roll-out, one after the other, to topic `rollout`.

A task of every worker, which acts while the worker owns partition 0 of item-updates. Two that act for a moment do no
harm: a decision is a compare-and-set, and of two made of the same state the first in the log counts
(domain/rollout.py). What is decided stands in domain/decisions.py; here are the clock, the broker and the turn:

    read inputs ─► decide ─► write the decision ─► wait until the follower has folded past it ─► decide again

Nothing is kept between two decisions but what the topics say, so its successor goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from aiokafka import AIOKafkaProducer

from domain.decisions import coverage_of, decide
from domain.rollout import Phase, Rollout
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Unavailable
from schemas.records import RolloutEvent
from streams import metrics
from streams.artifact_checks import ArtifactChecks
from streams.changelog import translated
from streams.rollout_inputs import COMMANDS, RolloutInputs

__all__ = ["Coordinator", "Follower"]

logger = logging.getLogger(__name__)

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

    async def read_to_end(self) -> None:
        """Wait until all that the topic holds now is folded."""

    async def changed(self, since: Rollout) -> Rollout:
        """The state, as soon as it is another than this one."""


class Coordinator:
    """Decides while `owns()`; see the module."""

    def __init__(
        self, deployment: Deployment, follower: Follower, owns: Callable[[], bool], *, broker_budget_s: float = 60.0
    ) -> None:
        self._deployment, self._follower, self._owns = deployment, follower, owns
        self._broker_budget_s = broker_budget_s
        self._topic = deployment.topic("rollout")
        self._failing_since: float | None = None

    async def run(self) -> None:
        """Coordinate until cancelled. Raises Unavailable where the broker is gone for longer than the budget."""
        wait_s = _FIRST_WAIT_S
        while True:
            if not self._owns():
                await asyncio.sleep(_LOOK_S)
                continue
            try:
                await self._coordinate()
            except Unavailable as error:
                wait_s = _FIRST_WAIT_S if self._failing_since is None else min(2 * wait_s, _LONGEST_WAIT_S)
                self._failing_since = self._failing_since or time.monotonic()
                if time.monotonic() - self._failing_since > self._broker_budget_s:
                    raise
                logger.warning("roll-outs wait: %s; trying again in %.1f s", error, wait_s)
                await asyncio.sleep(wait_s)

    async def _coordinate(self) -> None:
        """One turn as the coordinator, to the end of the ownership."""
        checks = ArtifactChecks(self._deployment)
        producer = AIOKafkaProducer(
            bootstrap_servers=self._deployment.bootstrap_servers, acks="all", enable_idempotence=True
        )
        try:
            with translated(f"writing {self._topic}"):
                await producer.start()
            await self._follower.read_to_end()  # what is decided already need not be decided once more
            async with RolloutInputs(self._deployment, self._follower.state.next_command) as inputs:
                logger.info("coordinates roll-outs from epoch %d on", self._follower.state.epoch)
                self._failing_since = None
                while self._owns():
                    await self._step(inputs, checks, producer)
            logger.info("coordinates no more: another worker has partition 0 of item-updates")
        finally:
            metrics.build(None)
            checks.stop()
            await producer.stop()

    async def _step(self, inputs: RolloutInputs, checks: ArtifactChecks, producer: AIOKafkaProducer) -> None:
        """Take in what has come, and write what follows from it, decision after decision."""
        await inputs.read(int(1000 * _LOOK_S))
        for key, value in inputs.letters:
            with translated("writing a dead letter"):
                await producer.send_and_wait(self._deployment.dead_letters(COMMANDS), value, key=key)
        inputs.letters.clear()
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
