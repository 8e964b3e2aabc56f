"""Our worker as a measured process: the real one, with a stopwatch and, for comparisons, with the plain fold.

Options of the job: `fold` is "plain", "plain-per-record" or "items"; `artifacts` the folders of models whose item
towers compute vectors from the first record on, each into a slot of its own; `restore` ends the job when the tables are
restored instead of when the source is drained; `web_port` is where /readyz answers.

Blocks of the event loop are seen from inside: a task asks to be woken every 10 ms and notes by how much it was late,
whatever the reason (a long callback, the interpreter lock held by an executor thread, the core taken by another one).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.job import Job, Stopwatch
from bench.plain_fold import TABLE, PlainFold
from domain.rollout import SLOTS
from streams.fold import Fold, TableReader, Writes
from streams.item_model import Feed, ItemModel
from streams.item_updates import ItemUpdatesFold
from streams.lane import Lane
from streams.topology import Worker, WorkerSettings, build_worker
from streams.worker import run

_TICK_S: Final = 0.01


class _Timed:
    """A fold that starts the stopwatch with its first batch and counts what it does."""

    def __init__(self, fold: Fold, watch: Stopwatch) -> None:
        self._fold, self._watch = fold, watch
        self.source, self.tables, self.rebuild = fold.source, fold.tables, fold.rebuild
        self.batches = self.rows = 0

    def fold(self, partition: int, topic_id: int, records: Sequence[Any], tables: TableReader) -> Writes:
        self._watch.start()
        writes = self._fold.fold(partition, topic_id, records, tables)
        self.batches += 1
        self.rows += len(writes.rows[self.tables[0]])
        return writes


class _Measurement:
    """Watches one lane from inside its worker."""

    def __init__(self, job: Job, lane: Lane) -> None:
        self._job, self._lane = job, lane
        self._watch = Stopwatch()
        self._late_s = 0.0
        self._fold = _Timed(lane.fold, self._watch)
        lane.fold = self._fold

    async def run(self) -> None:
        if self._job.options.get("restore"):
            await self._restored()
            rows = sum(partition.restored_rows for partition in self._lane.partitions.values())
            self._job.report(**self._watch.read(), records=rows)
            return
        while self._applied() < self._job.records:
            await self._tick()
        self._job.report(
            **self._watch.read(),
            records=self._job.records,
            batches=self._fold.batches,
            rows=self._fold.rows,
            loop_block_ms=1000 * self._late_s,
        )

    async def _restored(self) -> None:
        await _poll(lambda: bool(self._lane.partitions))
        self._watch.start()
        await _poll(lambda: all(partition.ready for partition in self._lane.partitions.values()))

    async def _tick(self) -> None:
        before = time.perf_counter()
        await asyncio.sleep(_TICK_S)
        if self._watch.running:
            self._late_s = max(self._late_s, time.perf_counter() - before - _TICK_S)

    def _applied(self) -> int:
        cursors = (partition.cursor for partition in self._lane.partitions.values())
        return sum(cursor.expected for cursor in cursors if cursor is not None)


async def _poll(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the worker has no event to offer for this
        await asyncio.sleep(_TICK_S)


def _worker(job: Job) -> Worker:
    worker = build_worker(job.deployment, WorkerSettings(web_port=job.options["web_port"], session_timeout_s=10.0))
    lane = worker.lanes[0]
    kind = job.options["fold"]
    if kind != "items":
        lane.fold = PlainFold(coalesce=kind == "plain")
        lane.tables = {TABLE: lane.tables[TABLE]}
    if artifacts := [Path(each) for each in job.options.get("artifacts", ())]:
        assert isinstance(lane.fold, ItemUpdatesFold)
        # Before the first record, and not through topic rollout: nothing is to be folded twice here.
        lane.fold.feed({
            slot: Feed.live(ItemModel.load(folder, folder.name, job.deployment), slot)
            for slot, folder in zip(SLOTS, artifacts, strict=False)
        })  # fmt: skip
    measurement = _Measurement(job, lane)
    worker.app.task(measurement.run)
    return worker


if __name__ == "__main__":
    run(_worker(Job.from_argv()))
