"""Topic rollout as a measurement sees it: which decision came to the log when."""

from __future__ import annotations

import threading
import time
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from domain.rollout import Rollout
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Unavailable

__all__ = ["Decided", "DecisionLog"]

_POLL_S: Final = 0.01


class Decided(NamedTuple):
    """A decision that counts."""

    decision: str
    version: str
    reason: str
    appended_ms: int  #: by the broker's clock, which is this machine's
    seen_s: float  #: performance counter of this process


class DecisionLog(threading.Thread):
    """Folds the topic from its start in a thread of its own."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(daemon=True)
        self._consumer = Consumer(
            {
                "bootstrap.servers": deployment.bootstrap_servers, "group.id": "bench-rollout",
                "enable.auto.commit": False, "fetch.wait.max.ms": 10,
            }
        )  # fmt: skip
        self._consumer.assign([TopicPartition(deployment.topic("rollout"), 0, 0)])
        self._over = threading.Event()
        self.found: list[Decided] = []

    def __enter__(self) -> DecisionLog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._consumer.close()

    def run(self) -> None:
        """Until the block ends."""
        state, decode = Rollout(), codec("rollout_event").decode
        while not self._over.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            event: Any = decode(message.value())
            before, state = state, state.applied(event)
            if state is not before:
                at = message.timestamp()[1], time.perf_counter()
                self.found.append(Decided(event["decision"], event["version"], event["reason"], *at))

    def wait_for(self, decision: str, version: str, within_s: float = 300.0) -> Decided:
        """The newest such decision, once there is one. Raises Unavailable where it is rejected, or takes too long."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for each in reversed(self.found):
                if each.version == version and each.decision == decision:
                    return each
                if each.version == version and each.decision in ("reject", "refuse"):
                    raise Unavailable(f"model {version}: {each.decision}: {each.reason}")
            time.sleep(_POLL_S)
        raise Unavailable(f"model {version}: no {decision} within {within_s:.0f} s, but {self.found[-3:]}")
