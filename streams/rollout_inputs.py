"""What the coordinator's decisions are made of: operators' commands, workers' progress, servers' shadow reports.

Three topics of one partition each, read without a group: commands from the first one that is not decided on, the other
two from their start, of which the newest record of each key counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition

from domain.decisions import Inputs
from domain.rollout import Rollout
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord, Unavailable
from schemas.records import ModelVersion
from streams.changelog import translated
from streams.intake import dead_letter
from streams.store import Row
from streams.topic_reader import TopicReader, committed_consumer

__all__ = ["COMMANDS", "RolloutInputs"]

logger = logging.getLogger(__name__)

COMMANDS: Final = "model-versions"
_PROGRESS: Final = "build-progress"
_SHADOWS: Final = "shadow-reports"
_SCHEMAS: Final = {_PROGRESS: "build_progress", _SHADOWS: "shadow_report"}
_READ_WITHIN_S: Final = 30.0
_POLL_MS: Final = 200
_READING: Final = "reading what the roll-out is decided on"


class RolloutInputs(TopicReader):
    """Reads the three topics; an async context, which has read them to their end when it is entered.

    Raises Unavailable where the broker does not answer.
    """

    def __init__(self, deployment: Deployment, next_command: int) -> None:
        self._deployment, self._next_command = deployment, next_command
        self._names = {TopicPartition(deployment.topic(name), 0): name for name in (COMMANDS, *_SCHEMAS)}
        self._commands: dict[int, ModelVersion | None] = {}
        self._newest: dict[str, dict[bytes, Any]] = {name: {} for name in _SCHEMAS}
        #: Dead letters of what is no command, by its offset: to be sent before it is decided on.
        self.letters: dict[int, Row] = {}
        self._consumer = committed_consumer(deployment.bootstrap_servers, auto_offset_reset="earliest")
        super().__init__(_READING, self._consumer)

    async def read(self, wait_ms: int) -> None:
        """Take in what has come; returns at once with it, or after `wait_ms` without."""
        with translated(_READING):
            for tp, records in (await self._consumer.getmany(timeout_ms=wait_ms)).items():
                name = self._names[tp]
                for record in records:
                    if name == COMMANDS:
                        self._command(record)
                    else:
                        self._report(name, record)

    def asks(self, state: Rollout) -> bool:
        """Whether a command waits for a decision in this state; those that it has decided on are forgotten."""
        for offset in [offset for offset in self._commands if offset < state.next_command]:
            del self._commands[offset]
            self.letters.pop(offset, None)  # whoever decided on it has sent it
        return bool(self._commands)

    @property
    def reported(self) -> frozenset[tuple[str, int]]:
        """Versions and partitions that build-progress holds a report of."""
        return frozenset((each["version"], each["partition"]) for each in self._newest[_PROGRESS].values())

    def of(self, state: Rollout, checked: Mapping[int, str]) -> Inputs:
        """What stands to be decided on in this state, now."""
        self.asks(state)
        return Inputs(
            commands=list(self._commands.items()),
            progress={(each["version"], each["partition"]): each for each in self._newest[_PROGRESS].values()},
            shadows={(each["version"], each["node"]): each for each in self._newest[_SHADOWS].values()},
            checked=checked,
            partitions=self._deployment.partitions,
            now_ms=int(time.time() * 1000),
        )

    async def _begin(self) -> None:
        with translated(_READING):
            await self._catch_up()

    async def _catch_up(self) -> None:
        tps = list(self._names)
        self._consumer.assign(tps)
        ends = await self._consumer.end_offsets(tps)
        for tp, name in self._names.items():
            self._consumer.seek(tp, self._next_command if name == COMMANDS else 0)
            if name == COMMANDS and ends[tp] < self._next_command:
                logger.error(
                    "%s ends at offset %d, commands below %d are decided on: it was deleted and made again. Commands "
                    "count from offset %d on; delete and make topic %s too to begin anew",
                    tp.topic, ends[tp], self._next_command, self._next_command, self._deployment.topic("rollout"),
                )  # fmt: skip
        deadline = time.monotonic() + _READ_WITHIN_S
        while [tp for tp in tps if await self._consumer.position(tp) < ends[tp]]:
            if time.monotonic() > deadline:
                raise Unavailable(f"{', '.join(tp.topic for tp in tps)} were not read within {_READ_WITHIN_S:.0f} s")
            await self.read(_POLL_MS)

    def _command(self, record: Any) -> None:
        command: Any
        try:
            command = codec("model_version").decode(record.value)
        except BadRecord as error:
            logger.error("%s offset %d goes to the dead letters: %s", record.topic, record.offset, error)
            self.letters[record.offset] = dead_letter(record, record.topic, 0, error)
            command = None
        self._commands[record.offset] = command

    def _report(self, name: str, record: Any) -> None:
        if record.value is None:
            self._newest[name].pop(record.key, None)
            return
        try:
            self._newest[name][record.key] = codec(_SCHEMAS[name]).decode(record.value)
        except BadRecord as error:
            # Nothing is lost: its writer says the same again with its next report.
            logger.error("%s offset %d is passed over: %s", record.topic, record.offset, error)
