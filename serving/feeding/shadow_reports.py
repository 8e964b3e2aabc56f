"""The feeder tells the fleet what its host has seen in the shadow: topic shadow-reports, the newest sums of each node.

The first report of a pair comes before any request: it says that this node is there, and what share it samples. A
report holds the sums since the pair began, not what came since the last one: one that is lost, or sent twice, changes
nothing. While the broker is away none is sent, and nothing else waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from domain.shadow import Pair, ShadowSums
from schemas.codec import codec
from schemas.deployment import Deployment
from serving.feeding.closing import close_client
from serving.rollout.shadow_board import ShadowBoard

__all__ = ["TOPIC", "ShadowReporter"]

TOPIC: Final = "shadow-reports"
_EVERY_S: Final = 5.0
_WITHIN_S: Final = 5.0
_LOOK_S: Final = 0.1

_log = logging.getLogger(__name__)

#: What a broker that is away, or a topic that is not there, ends in; a cancellation is one that aiokafka let out.
_AWAY: Final = (KafkaError, OSError, TimeoutError, asyncio.CancelledError)


class ShadowReporter:
    """A task beside the feed, until `stop`."""

    def __init__(
        self,
        deployment: Deployment,
        board: ShadowBoard,
        share: float,
        pair: Callable[[], Pair | None],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`pair` says what is compared now; what was compared last is reported to its end."""
        self._deployment = deployment
        self._board = board
        self._share = share
        self._pair = pair
        self._wall_s = wall_s
        self._last: Pair | None = None
        self._sent: tuple[Pair, ShadowSums] | None = None
        self._producer: Any = None
        self._says_away = False
        self._stopping = False

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping = True

    async def run(self) -> None:
        """Report every few seconds, where there is something new, until told to stop."""
        due_s = time.monotonic() + _EVERY_S
        while not self._stopping:
            await asyncio.sleep(_LOOK_S)
            if time.monotonic() >= due_s:
                try:
                    await self.turn()
                except Exception:  # the feed goes on, whatever it is
                    _log.exception("shadow scores could not be reported; it is tried again")
                due_s = time.monotonic() + _EVERY_S
        if not self._says_away:
            await self.turn()
        await self._close()

    def due(self) -> tuple[Pair, ShadowSums] | None:
        """The sums that nobody was told yet; None where nothing is compared, or nothing came."""
        self._last = self._pair() or self._last
        if self._last is None:
            return None
        found = self._last, self._board.sums(self._last)
        return None if found == self._sent else found

    async def turn(self) -> None:
        """Send what is due. A broker that is away is said once; the next turn tries again."""
        due = self.due()
        if due is None:
            return
        try:
            await asyncio.wait_for(self._send(*due), _WITHIN_S)
        except _AWAY as error:
            if not self._says_away:
                _log.warning("shadow scores are not reported (%s: %s); trying again", type(error).__name__, error)
            self._says_away = True
            await self._close()
            return
        self._says_away, self._sent = False, due

    async def _send(self, pair: Pair, sums: ShadowSums) -> None:
        if self._producer is None:
            self._producer = AIOKafkaProducer(bootstrap_servers=self._deployment.bootstrap_servers, acks="all")
            await self._producer.start()
        node, now_ms = self._board.node, int(self._wall_s() * 1000)
        of_node = {"node": node, "event_time_ms": now_ms, "share": self._share}
        report = {**pair._asdict(), **of_node, **asdict(sums)}
        key, value = f"{pair.version}/{node}".encode(), codec("shadow_report").encode(report)
        await self._producer.send_and_wait(self._deployment.topic(TOPIC), value, key=key, partition=0)

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_client(producer)
