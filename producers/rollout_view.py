"""A roll-out as its topics tell it: commands, decisions, progress and shadow reports, read from outside the fleet.

Decisions are folded here as every worker and server folds them (domain/rollout.py), so a status shows what they act on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from domain.decisions import Coverage, coverage_of
from domain.rollout import Phase, Rollout, Version
from producers.connection import consumer_client, unavailable
from producers.topics import require_topics
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, DecodeError, Unavailable
from schemas.records import BuildProgress, ModelVersion, RolloutEvent, ShadowReport

__all__ = ["Command", "Decided", "RolloutView", "commands"]

_COMMANDS: Final = "model-versions"
_DECISIONS: Final = "rollout"
_PROGRESS: Final = "build-progress"
_SHADOWS: Final = "shadow-reports"
_READ: Final = (_DECISIONS, _PROGRESS, _SHADOWS)
_READ_WITHIN_S: Final = 10.0
_POLL_MS: Final = 200


@dataclass(frozen=True)
class Command:
    """A record of model-versions: what it says, or why it cannot be read."""

    offset: int
    append_time_ms: int
    record: ModelVersion | None
    problem: str = ""


@dataclass(frozen=True)
class Decided:
    """A decision that counts."""

    append_time_ms: int
    event: RolloutEvent


class RolloutView:
    """Decisions and reports as far as they are read: all there is when the context is entered, then by `refresh`.

    Raises BadInput where the topics are missing, Unavailable where the broker does not answer.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._closing = ExitStack()
        self.state = Rollout()
        self.decided: list[Decided] = []
        #: Newest by version and partition.
        self.progress: dict[tuple[str, int], BuildProgress] = {}
        #: Newest by version and serving node.
        self.shadows: dict[tuple[str, str], ShadowReport] = {}

    def __enter__(self) -> RolloutView:
        require_topics(self._deployment, *_READ)
        self._tps = {TopicPartition(self._deployment.topic(name), 0): name for name in _READ}
        self._consumer = self._closing.enter_context(consumer_client(self._deployment))
        try:
            self._consumer.assign(list(self._tps))
            self._consumer.seek_to_beginning(*self._tps)
            # As many as there are, whatever this machine's settings say: a roll-back should need no setting.
            self._partitions = len(self._consumer.partitions_for_topic(self._deployment.topic("item-updates")) or ())
            self.refresh()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.__exit__(kind, error, trace)

    def refresh(self) -> None:
        """Read to where the topics end now."""
        try:
            ends = self._consumer.end_offsets(list(self._tps))
            deadline_s = time.monotonic() + _READ_WITHIN_S
            while any(self._consumer.position(tp) < end for tp, end in ends.items()):
                if time.monotonic() > deadline_s:
                    raise Unavailable(f"topics {', '.join(ends)} were not read within {_READ_WITHIN_S:.0f} s")
                self._take(_POLL_MS)
        except KafkaError as error:
            raise unavailable(self._deployment, error) from error

    def wait(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Read on until something holds of what was read; whether it did in time."""
        deadline_s = time.monotonic() + within_s
        try:
            while not holds():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._take(min(_POLL_MS, int(1000 * left_s) + 1))
        except KafkaError as error:
            raise unavailable(self._deployment, error) from error
        return True

    def decision_on(self, offset: int, within_s: float) -> RolloutEvent | None:
        """What was decided on the command at this offset; None where nothing was within the time."""
        self.wait(lambda: self.state.next_command > offset, within_s)
        return next((each.event for each in self.decided if each.event["command_offset"] == offset), None)

    def coverage(self, version: Version) -> Coverage:
        """How far the version's present build is."""
        return coverage_of(version, self.progress, self._partitions)

    def builds(self, version: Version) -> list[BuildProgress]:
        """What the partitions last said of the version's present build, in their order."""
        return [
            report
            for (name, _), report in sorted(self.progress.items())
            if name == version.name and report["build_epoch"] == version.build_epoch
        ]

    def named(self, text: str) -> str:
        """The one version whose name begins so. Raises BadInput where none or several do."""
        names = [version.name for version in self.state.versions if version.name.startswith(text)]
        if len(names) != 1:
            known = ", ".join(version.name for version in self.state.versions) or "none"
            raise BadInput(f"{'no' if not names else 'more than one'} version begins with {text!r}; there are: {known}")
        return names[0]

    def on_its_way(self) -> str:
        """The newest version that is published, building or covered. Raises BadInput where none is."""
        for version in reversed(self.state.versions):
            if version.phase in (Phase.PUBLISHED, Phase.BUILDING, Phase.COVERED):
                return version.name
        raise BadInput("no version is on its way: name the one you mean, see `aif model status`")

    def _take(self, wait_ms: int) -> None:
        for tp, records in self._consumer.poll(timeout_ms=wait_ms).items():
            for record in records:
                # What cannot be read is passed over, as every worker and server does.
                with suppress(DecodeError):
                    if self._tps[tp] == _DECISIONS:
                        self._decision(record)
                    elif record.value is not None:
                        self._report(self._tps[tp], record.value)

    def _decision(self, record: Any) -> None:
        event: Any = codec("rollout_event").decode(record.value)
        before, self.state = self.state, self.state.applied(event)
        if self.state is not before:
            self.decided.append(Decided(record.timestamp, event))

    def _report(self, topic: str, value: bytes) -> None:
        report: Any
        if topic == _PROGRESS:
            report = codec("build_progress").decode(value)
            self.progress[report["version"], report["partition"]] = report
        else:
            report = codec("shadow_report").decode(value)
            self.shadows[report["version"], report["node"]] = report


def commands(deployment: Deployment) -> list[Command]:
    """Everything on model-versions in log order, unreadable records with the reason. Raises BadInput, Unavailable."""
    require_topics(deployment, _COMMANDS)
    tp = TopicPartition(deployment.topic(_COMMANDS), 0)
    found: list[Command] = []
    with consumer_client(deployment) as consumer:
        consumer.assign([tp])
        consumer.seek_to_beginning(tp)
        end = consumer.end_offsets([tp])[tp]
        deadline_s = time.monotonic() + _READ_WITHIN_S
        while consumer.position(tp) < end:
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{tp.topic} was not read to offset {end} within {_READ_WITHIN_S:.0f} s")
            found.extend(map(_command, consumer.poll(timeout_ms=_POLL_MS).get(tp, [])))
    return found


def _command(record: Any) -> Command:
    try:
        command: Any = codec("model_version").decode(record.value)
    except DecodeError as error:
        return Command(record.offset, record.timestamp, None, str(error))
    return Command(record.offset, record.timestamp, command)
