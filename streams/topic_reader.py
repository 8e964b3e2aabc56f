"""Reading topics without a group: consumers of the partitions that their owner assigns, for the time of a context.

Nobody is waited for, and nobody rebalances: who reads decides where to begin and keeps the offsets.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer

from streams.changelog import translated

__all__ = ["TopicReader", "committed_consumer", "lone_consumer"]

#: What is asked of a topic for the first time waits one back-off for its metadata; aiokafka's own is 100 ms.
_BACKOFF_MS: Final = 20


def lone_consumer(bootstrap_servers: str, **settings: Any) -> AIOKafkaConsumer:
    """A consumer without a group, not started; `settings` are aiokafka's."""
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, enable_auto_commit=False, retry_backoff_ms=_BACKOFF_MS, **settings
    )


def committed_consumer(bootstrap_servers: str, **settings: Any) -> AIOKafkaConsumer:
    """A `lone_consumer` that reads, and counts up to, what no open transaction holds back."""
    return lone_consumer(bootstrap_servers, isolation_level="read_committed", **settings)


class TopicReader:
    """Consumers that start together, begin, and stop together, also where the start or the beginning fails.

    An async context. Errors of Kafka at the start become Unavailable, saying that it happened while `doing`.
    """

    def __init__(self, doing: str, *consumers: AIOKafkaConsumer) -> None:
        self._doing, self._consumers = doing, consumers

    async def __aenter__(self) -> Self:
        try:
            with translated(self._doing):
                for consumer in self._consumers:
                    await consumer.start()
            await self._begin()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _begin(self) -> None:
        """What has to be done before anything is read; nothing, unless a subclass says so."""

    async def _stop(self) -> None:
        for consumer in self._consumers:
            await consumer.stop()
