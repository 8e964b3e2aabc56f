"""Records of roll-outs as their writers make them, and a writer of such records for tests without a fleet."""

from __future__ import annotations

from typing import Any, cast

from kafka import KafkaProducer

from domain.rollout import Rollout, Terms
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.records import BuildProgress, RolloutEvent

_KEYS = {
    "rollout": lambda _: b"rollout",
    "build-progress": lambda it: f"{it['version']}/{it['partition']}".encode(),
    "shadow-reports": lambda it: f"{it['version']}/{it['node']}".encode(),
}
_SCHEMAS = {"rollout": "rollout_event", "build-progress": "build_progress", "shadow-reports": "shadow_report"}


def decision(state: Rollout, what: str, version: str, **changes: Any) -> RolloutEvent:
    """The next decision of a state."""
    terms = Terms()
    return cast(
        RolloutEvent,
        {
            "epoch": state.epoch + 1, "event_time_ms": 1_000, "decision": what, "version": version, "slot": "",
            "command_offset": -1, "uri": "", "manifest_sha256": "", "gate": terms.gate, "auto": terms.auto,
            "shadow_s": terms.shadow_s, "min_overlap": terms.min_overlap, "retain_s": terms.retain_s,
            "by": "coordinator", "reason": "", **changes,
        },
    )  # fmt: skip


def progress(version: str, partition: int, build_epoch: int, **changes: Any) -> BuildProgress:
    """What a worker says of a partition: a hundred items, none of them done."""
    return cast(
        BuildProgress,
        {
            "version": version, "partition": partition, "build_epoch": build_epoch, "items": 100, "written": 0,
            "rejected": 0, "done": False, "items_per_s": 0.0, "problem": "", "worker": f"w{partition}",
            "event_time_ms": 1_000, **changes,
        },
    )  # fmt: skip


class RolloutWriter:
    """Writes decisions and progress; `state` is what the decisions make."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._producer = KafkaProducer(bootstrap_servers=deployment.bootstrap_servers)
        self.state = Rollout()

    def decide(self, what: str, version: str, **changes: Any) -> RolloutEvent:
        """Write the next decision."""
        event = decision(self.state, what, version, **changes)
        self.state = self.state.applied(event)
        assert self.state.epoch == event["epoch"], "it does not count"
        self.write("rollout", event)
        return event

    def write(self, topic: str, record: Any) -> None:
        """Write a record and wait for it."""
        value = record if isinstance(record, bytes) else codec(_SCHEMAS[topic]).encode(record)
        key = b"junk" if isinstance(record, bytes) else _KEYS[topic](record)
        self._producer.send(self._deployment.topic(topic), value=value, key=key, partition=0).get(10)

    def close(self) -> None:
        """End it."""
        self._producer.close()
