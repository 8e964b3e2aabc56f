"""Our worker as a measured process, on user events: all windows, declared features, sequence and category index.

The whole worker runs, item lane idle; the stopwatch starts with the first batch of user events and stops when all are
committed. `web_port` of the job is where its status is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from bench.job import Job, Stopwatch
from streams.fold import Fold, TableReader, Writes
from streams.topology import Worker, WorkerSettings, build_worker
from streams.worker import run

_LANE: Final = 1  # of build_worker: items, then users
_TICK_S: Final = 0.01


class _Timed:
    """A fold that starts the stopwatch with its first batch and counts batches, rows and their bytes."""

    def __init__(self, fold: Fold, watch: Stopwatch) -> None:
        self._fold, self._watch = fold, watch
        self.source, self.tables, self.rebuild = fold.source, fold.tables, fold.rebuild
        self.batches = self.rows = self.bytes = 0

    def fold(self, partition: int, topic_id: int, records: Sequence[Any], tables: TableReader) -> Writes:
        self._watch.start()
        writes = self._fold.fold(partition, topic_id, records, tables)
        rows = writes.rows.get("users", [])
        self.batches += 1
        self.rows += len(rows)
        self.bytes += sum(len(key) + len(value or b"") for key, value in rows)
        return writes


def _worker(job: Job) -> Worker:
    worker = build_worker(job.deployment, WorkerSettings(web_port=job.options["web_port"], session_timeout_s=10.0))
    lane, watch = worker.lanes[_LANE], Stopwatch()
    fold = _Timed(lane.fold, watch)
    lane.fold = fold

    async def report() -> None:
        while sum(each.cursor.expected for each in lane.partitions.values() if each.cursor is not None) < job.records:  # noqa: ASYNC110  # the worker has no event for it
            await asyncio.sleep(_TICK_S)
        job.report(
            **watch.read(), records=job.records, batches=fold.batches, rows=fold.rows,
            changelog_bytes_per_event=fold.bytes / job.records,
        )  # fmt: skip

    worker.app.task(report)
    return worker


if __name__ == "__main__":
    run(_worker(Job.from_argv()))
