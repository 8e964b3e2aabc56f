"""The real worker, coordinator included, with a stopwatch on its build of one model version.

From the moment that a partition has the version's model in hand until every partition has looked at all its items.
Before that it says, by the file that option `at_rest` names, that the slots of earlier versions are looked through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.job import Job, Stopwatch
from streams.item_updates import ItemUpdatesFold
from streams.slot_builds import Build
from streams.topology import Worker, WorkerSettings, build_worker
from streams.worker import run

_TICK_S: Final = 0.002


def _builds(fold: ItemUpdatesFold) -> list[Build]:
    """The scans of all partitions and slots that have begun."""
    return [build for each in list(fold.slots.values()) for build in list(each.builds.values()) if build.began_s]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the worker has no event to offer for this
        await asyncio.sleep(_TICK_S)


def _worker(job: Job) -> Worker:
    worker = build_worker(job.deployment, WorkerSettings(web_port=job.options["web_port"], session_timeout_s=10.0))
    fold, watch = worker.lanes[0].fold, Stopwatch()
    assert isinstance(fold, ItemUpdatesFold)

    def ours() -> list[Build]:
        return [build for build in _builds(fold) if build.version == job.options["version"]]

    async def measure() -> None:
        await _until(lambda: len(fold.slots) == job.partitions and all(build.done for build in _builds(fold)))
        Path(job.options["at_rest"]).touch()  # noqa: ASYNC240  # once, before the clock runs
        await _until(lambda: bool(ours()))
        watch.start()
        await _until(lambda: sum(build.done for build in ours()) == job.partitions)
        job.report(**watch.read(), records=sum(build.written for build in ours()))

    worker.app.task(measure)
    return worker


if __name__ == "__main__":
    run(_worker(Job.from_argv()))
