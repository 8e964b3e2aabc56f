"""The merger around a retrieval that takes its time: what a request adds to it. A process of its own (bench/job.py).

Over the state that `aif serve` made of the filled folder, with the executors that it has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count as counting
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.job import Job
from bench.serving_state import Opened, opened
from bench.serving_world import TOP_K, World, user_id
from bench.stopwatch import in_rounds
from schemas.errors import Corrupt
from serving.ranking.merger import Ask, Merger
from serving.ranking.retrieval import Wanted
from serving.ranking.turns import Turns
from serving.stages import StageClock
from serving.user.user_side import How

__all__ = ["BY_USER_PHASE", "OVER_RETRIEVAL"]

OVER_RETRIEVAL: Final = "added_ms_over_retrieval"
BY_USER_PHASE: Final = "added_ms_by_user_phase"

#: Suffix of the key -> what the retrieval takes.
_RETRIEVALS_MS: Final = {"": 5.0, "_2ms": 2.0, "_10ms": 10.0}
_REQUESTS: Final = 8
_MERGED: Final = 30
_MINUTE_MS: Final = 60_000


def main(job: Job) -> None:
    """Measure with `candidates` of the job's options."""
    world = World.open(Path(job.folder))
    with opened(world) as serving:
        minutes = counting(1)
        figures = {
            f"{key}{suffix}": _added(serving, int(job.options["candidates"]), taken_ms, minutes, key == BY_USER_PHASE)
            for key in (OVER_RETRIEVAL, BY_USER_PHASE)
            for suffix, taken_ms in _RETRIEVALS_MS.items()
        }
        job.report(ms=in_rounds(figures, int(job.options["rounds"])))


def _added(
    serving: Opened, candidates: int, retrieval_ms: float, minutes: Iterator[int], minus_kept: bool
) -> Callable[[], float]:
    """The median over some requests whose user's state is made anew, for another minute each time.

    With `minus_kept` less the median of as many requests that find it kept: what making it beside retrieval costs.
    """
    world, live = serving.world, SimpleNamespace(live=serving.version)
    user = user_id(world.check_behaviours)
    requests = [world.item_ids[world.candidates(candidates, seed)] for seed in range(_REQUESTS)]

    async def run() -> float:
        with ThreadPoolExecutor(1) as scorers, ThreadPoolExecutor(1) as phases:
            merger = Merger.of(serving.store, live, Turns(scorers), phases)  # type: ignore[arg-type]
            merger.speeds.measure(serving.version)
            spent: dict[How, list[float]] = {How.COMPUTED: [], How.CACHED: []}
            for number in range(_MERGED):
                ask = Ask(user, world.at_ms + next(minutes) * _MINUTE_MS)
                for how in (How.COMPUTED, How.CACHED) if minus_kept else (How.COMPUTED,):
                    retriever = _Sleeping(requests[number % _REQUESTS], retrieval_ms / 1000)
                    started = time.perf_counter()
                    merged = await merger.rank(ask, retriever, candidates, TOP_K, StageClock())
                    spent[how].append(time.perf_counter() - started - retriever.took_s)
                    _require_whole(world, merged.ranked.behaviours_used, merged.user_phase, how)
            kept_s = median(spent[How.CACHED]) if minus_kept else 0.0
            return 1000 * (median(spent[How.COMPUTED]) - kept_s)

    return lambda: asyncio.run(run())


def _require_whole(world: World, behaviours: int, how: How, expected: How) -> None:
    if behaviours != world.check_behaviours or how is not expected:
        raise Corrupt(f"a request read {behaviours} behaviours, its user phase was {how}: not what is to be measured")


class _Sleeping:
    """A retrieval somewhere else: it takes its time and none of this processor's."""

    def __init__(self, ids: npt.NDArray[np.int64], seconds: float) -> None:
        self._ids, self._seconds = ids, seconds
        self.took_s = 0.0

    async def candidates(self, wanted: Wanted) -> npt.NDArray[np.int64]:
        """The ids, after the time; how long it really was is noted."""
        started = time.perf_counter()
        await asyncio.sleep(self._seconds)
        self.took_s = time.perf_counter() - started
        return self._ids


if __name__ == "__main__":
    main(Job.from_argv())
