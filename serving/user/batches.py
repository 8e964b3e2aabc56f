"""Jobs of concurrent requests, run together: at once while nobody runs, in batches while somebody does.

A job that finds the queue idle starts a run with itself alone: nothing ever waits for a batch to fill. What comes while
a run is under way waits for its end and goes together then, at most `most` jobs of one kind (one model version). A
second run beside the first, where `runners` allows it, starts once a whole batch waits or the oldest job has waited
`most_wait_s`: the gates bound waiting, they never cause it.

No thread is made here: `spawn` starts a run somewhere (an executor's submit), and the run goes on until nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["BatchSettings", "Batches"]

Job = TypeVar("Job")


@dataclass(frozen=True)
class BatchSettings:
    """Bounds of the queue."""

    most: int = 32  #: jobs in one run
    runners: int = 1  #: runs at a time
    most_wait_s: float = 0.002  #: after this a job's wait starts a further run, where there may be one
    most_queued: int = 4096  #: jobs that may wait; one more is refused, and its request degrades at once


class Batches(Generic[Job]):
    """The queue. Any thread may add."""

    def __init__(
        self,
        run: Callable[[list[Job]], None],
        kind_of: Callable[[Job], Hashable],
        spawn: Callable[[Callable[[], None]], object],
        settings: BatchSettings | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`run` takes one batch of jobs of one kind and must not raise: what goes wrong belongs to its jobs."""
        self.settings = settings or BatchSettings()
        self.runs = 0
        self.jobs = 0
        self.refused = 0
        self._run = run
        self._kind_of = kind_of
        self._spawn = spawn
        self._now_s = monotonic_s
        self._lock = threading.Lock()
        self._queue: deque[tuple[float, Job]] = deque()
        self._running = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, job: Job) -> bool:
        """Queue a job, and start a run where one is due. False where the queue is full: the job was not taken."""
        with self._lock:
            if len(self._queue) >= self.settings.most_queued:
                self.refused += 1
                return False
            self._queue.append((self._now_s(), job))
            due = self._due()
            self._running += due
        if due:
            self._spawn(self._drain)
        return True

    def _due(self) -> bool:
        """Whether a run is to start now; the lock is held."""
        settings = self.settings
        if self._running == 0:
            return True
        waited_s = self._now_s() - self._queue[0][0]
        crowded = len(self._queue) >= settings.most or waited_s >= settings.most_wait_s
        return self._running < settings.runners and crowded

    def _drain(self) -> None:
        while jobs := self._take():
            self._run(jobs)

    def _take(self) -> list[Job]:
        """The oldest job and those of its kind behind it, up to a batch; ends the run where nothing waits."""
        with self._lock:
            if not self._queue:
                self._running -= 1
                return []
            kind = self._kind_of(self._queue[0][1])
            taken: list[Job] = []
            left: deque[tuple[float, Job]] = deque()
            while self._queue and len(taken) < self.settings.most:
                entry = self._queue.popleft()
                if self._kind_of(entry[1]) == kind:
                    taken.append(entry[1])
                else:
                    left.append(entry)
            self._queue.extendleft(reversed(left))
            self.runs += 1
            self.jobs += len(taken)
            return taken
