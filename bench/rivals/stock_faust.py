"""Faust as it comes, tuned: `take_events`, one changelog record per source record, state in its own RocksDB store.

Tuned: no logging below WARNING (by default every record builds a DEBUG record), uvloop, a lingering compressing
producer, larger stream buffers, RocksDB caches of a sane size. State is written with one WriteBatch per take, around
`table[key] = value`, which needs the current event that `take_events` does not set. Changelog futures of a take are
awaited one take later. With option `restore` of the job it recovers the table from its changelog and ends.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

import faust
from mode.loop import use as use_loop
from rocksdict import WriteBatch

from bench.job import Job, Stopwatch
from bench.plain_fold import counted, new_row

__all__ = ["changelog_topic"]

_TAKE: Final = 512
_TABLE: Final = "rows"


def changelog_topic(job: Job) -> str:
    """The topic that Faust keeps the table's changelog in."""
    return f"{job.prefix}stock-{_TABLE}-changelog"


class _Counter:
    """The agent's work."""

    def __init__(self, job: Job, table: Any) -> None:
        self._job, self._table = job, table
        self._watch = Stopwatch()
        self._done = 0

    async def run(self, stream: Any) -> None:
        sent: list[Any] = []
        async for events in stream.take_events(_TAKE, within=0.1):
            self._watch.start()
            futures = self._apply(events)
            await asyncio.gather(*sent)
            sent = futures
            self._done += len(events)
            if self._done >= self._job.records:
                await asyncio.gather(*sent)
                self._job.report(**self._watch.read(), records=self._done, changelog=changelog_topic(self._job))

    def _apply(self, events: list[Any]) -> list[Any]:
        by_partition: dict[int, list[Any]] = {}
        for event in events:
            by_partition.setdefault(event.message.partition, []).append(event.message)
        futures = []
        for partition, messages in by_partition.items():
            store = self._table.data._db_for_partition(partition)
            keys = list({message.key: None for message in messages})
            state = {key: counted(row) for key, row in zip(keys, store.get(keys), strict=True)}
            batch = WriteBatch(raw_mode=True)
            for message in messages:
                count, last = state[message.key]
                if message.offset > last:
                    state[message.key] = count + 1, message.offset
                    row = new_row(count + 1, message.offset)
                    batch.put(message.key, row)
                    futures.append(self._table.send_changelog(partition, message.key, row))
            store.write(batch)
        return futures


class _RecoveryWatch:
    """Times the table's recovery, from the assignment of partitions on."""

    def __init__(self, app: Any, job: Job) -> None:
        self._app, self._job = app, job
        self._watch = Stopwatch()

    async def assigned(self, app: Any, assigned: Any, **_: Any) -> None:
        self._watch.start()

    async def run(self) -> None:
        """Started by Faust once its tables are recovered."""
        read = self._watch.read()
        stores = self._app.tables[_TABLE].data._dbs.values()
        # The store's own offset is a key too.
        self._job.report(**read, records=sum(len(list(store.keys())) - 1 for store in stores))


def _app(job: Job) -> Any:
    app: Any = faust.App(
        f"{job.prefix}stock",
        broker=f"kafka://{job.bootstrap_servers}",
        store="rocksdb://",
        datadir=Path(job.folder) / "faust",
        topic_partitions=job.partitions,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.02,
        producer_max_batch_size=262_144,
        producer_compression_type="lz4",
        stream_buffer_maxsize=4096,
        broker_max_poll_records=1000,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    options = {"block_cache_size": 64 << 20, "bloom_filter_size": 10, "max_open_files": 256}
    table = app.Table(_TABLE, key_type=bytes, value_type=bytes, partitions=job.partitions, options=options)
    source = app.topic(job.topic, key_type=bytes, value_type=bytes, value_serializer="raw", partitions=job.partitions)
    app.agent(source, name="count")(_Counter(job, table).run)
    if job.options.get("restore"):
        watch = _RecoveryWatch(app, job)
        app.on_partitions_assigned.connect(watch.assigned)
        app.task(watch.run)

    return app


def main(job: Job) -> None:
    """Count all records of the job, or recover its table."""
    use_loop("uvloop")
    logging.basicConfig(level=logging.WARNING)
    for name in ("aiokafka", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.WARNING)
    faust.Worker(_app(job), loglevel=None, quiet=True, override_logging=False).execute_from_commandline()


if __name__ == "__main__":
    main(Job.from_argv())
