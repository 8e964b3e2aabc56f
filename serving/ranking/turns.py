"""Whose turn it is to be scored, and where: on the event loop itself, or on threads in the order of arrival.

Handing a request to a thread and its answer back takes two switches between threads and two fights for the
interpreter's lock, some tenths of a millisecond where caches are cold. A short request that nobody is before is
therefore scored at once where it arrived. What the event loop has to do besides (probes, refusals, bodies that come)
waits for one such request at most: after it the loop scores nothing for as long as it took, so that it keeps half of
its time, and while anything is under way on the threads whoever comes goes there too.

What was promised and is not done is known in milliseconds: who would only get its turn after its deadline is told so
at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

from schemas.errors import Unavailable
from serving.ranking.deadline import Deadline

__all__ = ["SHORT_MS", "Turns"]

#: What the event loop may be asked to score itself, as estimated on a quiet machine (calibration.py).
SHORT_MS: Final = 2.0

Result = TypeVar("Result")


class Turns:
    """The queue to the threads that score. The event loop's thread alone calls it."""

    def __init__(
        self, executor: Executor | None = None, threads: int = 1, clock_s: Callable[[], float] = time.perf_counter
    ) -> None:
        """`threads` of the executor run at the same time; without one everything is scored on the event loop."""
        self.on_loop = 0  #: requests scored on the event loop
        self.on_threads = 0
        self.refused = 0  #: requests whose turn would have come too late
        self._executor = executor
        self._threads = threads
        self._clock_s = clock_s
        self._under_way = 0
        self._owed_ms = 0.0
        self._loop_free_at_s = 0.0

    @property
    def under_way(self) -> int:
        """Requests that wait for a thread or are being scored by one."""
        return self._under_way

    @property
    def wait_ms(self) -> float:
        """How long a request that comes now waits for its turn, by what those before it are expected to take."""
        return self._owed_ms / self._threads if self._under_way >= self._threads else 0.0

    def require_in_time(self, deadline: Deadline) -> None:
        """Raises Unavailable where a request's turn would come after its deadline: then waiting is of no use."""
        wait_ms, left_ms = self.wait_ms, deadline.left_ms()
        if wait_ms > left_ms:
            self.refused += 1
            raise Unavailable(
                f"{self._under_way} requests are before this one for about {wait_ms:.0f} ms, its deadline leaves "
                f"{left_ms:.0f}: not scored, ask again later"
            )

    async def run(self, cost_ms: float | None, short: bool, score: Callable[[], Result]) -> Result:
        """What `score` returns, in its turn. `cost_ms` is what it is expected to take, None where nobody knows;
        `short` says that nothing can make it take much longer."""
        if self._executor is None or self._is_loops(cost_ms, short):
            return self._on_loop(score)
        self.on_threads += 1
        owed_ms = cost_ms or 0.0
        self._under_way += 1
        self._owed_ms += owed_ms
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, score)
        finally:
            self._under_way -= 1
            self._owed_ms = self._owed_ms - owed_ms if self._under_way else 0.0

    def _is_loops(self, cost_ms: float | None, short: bool) -> bool:
        idle = not self._under_way and self._clock_s() >= self._loop_free_at_s
        return short and idle and cost_ms is not None and cost_ms <= SHORT_MS

    def _on_loop(self, score: Callable[[], Result]) -> Result:
        self.on_loop += 1
        began_s = self._clock_s()
        try:
            return score()
        finally:
            ended_s = self._clock_s()
            self._loop_free_at_s = ended_s + (ended_s - began_s)
