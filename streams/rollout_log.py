"""Topic rollout read to its end, as often as asked: the state of the roll-out for commands that follow nothing."""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition

from domain.rollout import Rollout
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from streams.log_reader import LogReader

__all__ = ["RolloutLog"]


class RolloutLog:
    """Reads on with each call. Raises Unavailable where the broker does not answer."""

    def __init__(self, reader: LogReader, deployment: Deployment) -> None:
        self._reader, self._tp = reader, TopicPartition(deployment.topic("rollout"), 0)
        self._next = 0
        #: As of the last call.
        self.seen = Rollout()

    async def state(self) -> Rollout:
        """The state after every decision that is in the log now; those that this build cannot read are passed over."""
        bounds = await self._reader.bounds(self._tp)
        async for record in self._reader.records(self._tp, max(self._next, bounds.start), bounds.committed):
            try:
                event: Any = codec("rollout_event").decode(record.value)
            except BadRecord:
                continue
            self.seen = self.seen.applied(event)
        self._next = max(self._next, bounds.committed)
        return self.seen
