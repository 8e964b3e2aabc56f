"""Topic rollout: the decisions in its records, and its state for commands that follow nothing: read when asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aiokafka import TopicPartition

from domain.rollout import Rollout
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.records import RolloutEvent
from streams.log_reader import LogReader

__all__ = ["RolloutLog", "decisions"]

logger = logging.getLogger(__name__)


def decisions(
    records: Iterable[Any], unreadable: Callable[[BadRecord], None] = lambda error: None
) -> Iterator[RolloutEvent]:
    """The decisions in these records; what this build cannot read is passed over, logged, and told to `unreadable`."""
    for record in records:
        try:
            event: Any = codec("rollout_event").decode(record.value)
        except BadRecord as error:
            logger.error("%s offset %d is passed over: %s", record.topic, record.offset, error)
            unreadable(error)
        else:
            yield event


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
            for event in decisions([record]):
                self.seen = self.seen.applied(event)
        self._next = max(self._next, bounds.committed)
        return self.seen
