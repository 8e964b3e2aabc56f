"""The feed: keeps the store equal to the changelogs, and the live version equal to what was announced and covered.

One thread with its own event loop, the only writer of the store. It starts from the workers' tables on this host
where there are any, else from the beginning of the changelogs, and then follows them without a consumer group,
committed transactions only. While the broker is away the store stays as it is and the feed tries again, with backoff,
from where it was.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from schemas.deployment import Deployment
from schemas.errors import Corrupt, Unavailable
from serving.freshness import Freshness
from serving.local_tables import FoundTable, LocalTable, find_tables
from serving.metrics import Metrics
from serving.progress import Progress
from serving.store import SERVED_TABLES, Store, TablePartition
from serving.version_loader import MODELS, VersionLoader
from serving.versions import Versions

__all__ = ["Feed"]

_CONNECT_S: Final = 5.0
_CLOSE_S: Final = 2.0
_PROBE_EVERY_S: Final = 0.5
_PROBE_S: Final = 5.0
#: A partition whose records were just taken is asked for again only when the request under way comes back, so this is
#: also the most that an idle neighbour can delay a busy partition.
_FETCH_WAIT_MS: Final = 20
_POLL_MS: Final = 100
_MOST_RECORDS: Final = 4000
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 4.0

_log = logging.getLogger(__name__)


class Feed:
    """Follows one deployment's changelogs into a store. `start` and `stop` are for the process's main thread."""

    def __init__(
        self,
        deployment: Deployment,
        store: Store,
        versions: Versions,
        progress: Progress,
        freshness: Freshness,
        metrics: Metrics,
        tables: Path | None,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._loader = VersionLoader(store, versions, deployment)
        self._progress = progress
        self._freshness = freshness
        self._metrics = metrics
        self._folder = tables
        self._local_done = tables is None
        self._models = TopicPartition(deployment.topic(MODELS), 0)
        self._tables = {
            TopicPartition(deployment.changelog(table), partition): TablePartition(table, partition)
            for table in SERVED_TABLES
            for partition in range(deployment.partitions)
        }
        self._next: dict[TopicPartition, int] = dict.fromkeys([self._models, *self._tables], 0)
        self._targets: dict[TopicPartition, int] | None = None  #: ends to reach before the bootstrap is done
        self._reached_targets = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="feed", daemon=True)

    def start(self) -> None:
        """Begin in a thread of its own; returns at once."""
        self._thread.start()

    def stop(self, within_s: float = 10.0) -> None:
        """End the thread; what was applied stays readable."""
        self._stopping.set()
        self._thread.join(within_s)

    async def _run(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        try:
            while not self._stopping.is_set():
                try:
                    await self._session()
                # Nobody cancels this task: a cancellation is one that aiokafka let out of its inner tasks.
                except (KafkaError, Unavailable, OSError, TimeoutError, asyncio.CancelledError) as error:
                    if isinstance(error, OffsetOutOfRangeError):
                        raise
                    backoff_s = _FIRST_BACKOFF_S if self._progress.connected else min(2 * backoff_s, _LONGEST_BACKOFF_S)
                    self._disconnected(error)
                    if not isinstance(error, Unavailable):
                        self._load_without_broker()
                    self._settle()
                    await self._pause(backoff_s)
        except Exception as error:
            # The server goes on answering from memory; /readyz says that nothing new will come.
            _log.exception("the feed has ended")
            self._progress.failed = f"the feed has ended, restart the server: {type(error).__name__}: {error}"
            self._progress.connected = False
        finally:
            await self._loader.stop()

    async def _session(self) -> None:
        """Follow the changelogs until told to stop, or until the broker fails."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._deployment.bootstrap_servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=4 << 20,
        )
        try:
            await self._check_topics()
            await asyncio.wait_for(consumer.start(), _CONNECT_S)
            consumer.assign(list(self._next))
            await self._begin(consumer)
            await self._follow(consumer)
        finally:
            await _close(consumer)

    async def _check_topics(self) -> None:
        """Raises Unavailable where a topic is not there, or not as this server expects it."""
        # A consumer that is asked for a topic may create it; a listing of all topics never does.
        admin = AIOKafkaAdminClient(bootstrap_servers=self._deployment.bootstrap_servers)
        try:
            await asyncio.wait_for(admin.start(), _CONNECT_S)
            listing = await asyncio.wait_for(admin.describe_topics(), _CONNECT_S)
        finally:
            await admin.close()
        found = {each["topic"]: len(each["partitions"]) for each in listing}
        if absent := sorted({each.topic for each in self._next} - set(found)):
            raise Unavailable(f"topics {', '.join(absent)} do not exist yet: `aif topics create` makes them")
        for topic in sorted({each.topic for each in self._tables}):
            if found[topic] != self._deployment.partitions:
                raise Unavailable(
                    f"topic {topic} has {found[topic]} partitions, this server expects {self._deployment.partitions}: "
                    "start it with --partitions as the topics were created"
                )

    async def _begin(self, consumer: Any) -> None:
        """Load what is local, check that the changelogs go on from there, and place the consumer."""
        if not self._local_done:
            found = self._find_local()
            # Asked after the tables were looked at: a live worker's table may be ahead of any older answer.
            self._load_local(found, await asyncio.wait_for(consumer.end_offsets(list(self._next)), _PROBE_S))
        starts = await asyncio.wait_for(consumer.beginning_offsets(list(self._next)), _PROBE_S)
        ends = await asyncio.wait_for(consumer.end_offsets(list(self._next)), _PROBE_S)
        for partition, position in self._next.items():
            if position == 0:
                self._next[partition] = position = starts[partition]
            _require_same_topic(partition, position, starts[partition], ends[partition])
            consumer.seek(partition, position)
        if self._targets is None:
            self._targets = ends
        self._progress.connected = True
        self._progress.says = "reading the changelogs"
        _log.info("connected to %s; %d offsets to read", self._deployment.bootstrap_servers, self._note_lag(ends))

    async def _follow(self, consumer: Any) -> None:
        probed_s = 0.0
        while not self._stopping.is_set():
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MOST_RECORDS)
            for partition, records in fetched.items():
                self._apply(partition, records)
                await asyncio.sleep(0)
            for partition in self._next:
                # Beyond the last record: transaction markers and compacted offsets count as read.
                self._next[partition] = await consumer.position(partition)
            self._check_caught_up()
            self._settle()
            if time.monotonic() - probed_s >= _PROBE_EVERY_S:
                probed_s = time.monotonic()
                ends = await asyncio.wait_for(consumer.end_offsets(list(self._next)), _PROBE_S)
                for partition, end in ends.items():
                    _require_same_topic(partition, self._next[partition], 0, end)
                if not self._note_lag(ends):
                    self._progress.current_at_s = probed_s

    def _apply(self, partition: TopicPartition, records: Sequence[Any]) -> None:
        """Apply fetched records of a partition and note how old their oldest events were by then."""
        if partition == self._models:
            self._loader.announce([record.value for record in records])
        else:
            at = self._tables[partition]
            marks = self._store.apply(at, [record.key for record in records], [record.value for record in records])
            # While it reads what was there before it started, the server is late, not the data.
            if self._reached_targets:
                now_ms = time.time() * 1000
                for mark in marks:
                    if mark["oldest_append_time_ms"]:
                        delay_ms = now_ms - mark["oldest_append_time_ms"]
                        self._freshness.add(at.table, delay_ms)
                        self._metrics.freshness.labels(at.table).observe(delay_ms / 1000)
            self._store.applied[at] = records[-1].offset + 1
        self._next[partition] = records[-1].offset + 1

    def _settle(self) -> None:
        # Before everything is applied, coverage is of a part of the catalogue and would mean nothing.
        self._loader.settle(may_go_live=self._progress.caught_up)

    def _find_local(self) -> dict[TablePartition, FoundTable]:
        return find_tables(self._folder, self._deployment) if self._folder else {}

    def _load_local(self, found: Mapping[TablePartition, FoundTable], ends: Mapping[TopicPartition, int] | None) -> int:
        """Read the tables of this host, once. With `ends`, a table that reaches beyond is of another changelog."""
        self._local_done = True
        started_s, rows = time.monotonic(), 0
        for at, table in found.items():
            partition = TopicPartition(self._deployment.changelog(at.table), at.partition)
            if ends is not None and table.changelog_offset >= ends[partition]:
                _log.warning(
                    "%s is at changelog offset %d, beyond the end of %s (%d): not of this broker, left out",
                    table.path,
                    table.changelog_offset,
                    partition.topic,
                    ends[partition],
                )
                continue
            rows += self._load_table(at, table.path, partition)
        if found:
            _log.info("read %d rows from %s in %.1f s", rows, self._folder, time.monotonic() - started_s)
        return rows

    def _load_table(self, at: TablePartition, path: Path, partition: TopicPartition) -> int:
        rows = 0
        try:
            with closing(LocalTable(path)) as table:
                for keys, values in table.chunks():
                    self._store.apply(at, keys, values)
                    rows += len(keys)
                self._next[partition] = 0 if table.changelog_offset is None else table.changelog_offset + 1
                self._store.applied[at] = self._next[partition]
        except Unavailable as error:  # a part of its rows may be in; the changelog, from its start, has them all
            _log.warning("%s", error)
            return 0
        return rows

    def _load_without_broker(self) -> None:
        """Serve from this host's tables alone, where there are any."""
        if self._local_done or not self._load_local(self._find_local(), ends=None):
            return
        self._loader.adopt(self._deployment.data_dir / "artifacts")
        self._progress.caught_up = True

    def _note_lag(self, ends: Mapping[TopicPartition, int]) -> int:
        lag = {at: max(0, ends[partition] - self._next[partition]) for partition, at in self._tables.items()}
        self._progress.lag = lag
        return sum(lag.values())

    def _check_caught_up(self) -> None:
        targets = self._targets
        if self._reached_targets or targets is None:
            return
        if all(self._next[partition] >= end for partition, end in targets.items()):
            self._reached_targets = self._progress.caught_up = True
            self._progress.says = "following the changelogs"
            store = self._store
            _log.info(
                "caught up: %d items, %d users, %d rows, %.1f MB",
                len(store.items),
                len(store.users),
                sum(map(len, store.slabs.values())),
                store.nbytes / 1e6,
            )

    def _disconnected(self, error: BaseException) -> None:
        servers = self._deployment.bootstrap_servers
        if isinstance(error, Unavailable):
            says = str(error)
        else:
            says = f"no Kafka broker answers at {servers} ({type(error).__name__}); start it, or name yours with "
            says += "--bootstrap-servers or AIF_BOOTSTRAP_SERVERS"
        if self._progress.connected or self._progress.says != says:
            _log.warning("%s. Trying again until it does", says)
        self._progress.connected = False
        self._progress.says = says

    async def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and not self._stopping.is_set():
            self._settle()
            await asyncio.sleep(0.05)


def _require_same_topic(partition: TopicPartition, position: int, start: int, end: int) -> None:
    """Raises Corrupt where what was applied is not what this topic holds before `position`."""
    if not start <= position <= end:
        raise Corrupt(
            f"{partition.topic}-{partition.partition} holds offsets {start} to {end}, but {position} were applied: "
            "the topic was made anew, or lost records"
        )


async def _close(consumer: Any) -> None:
    """Give the consumer's connections back, whatever state they are in."""
    # As a task of its own: with a dead broker aiokafka lets the cancellation of its inner tasks out of `stop`.
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.wait({stopping}, timeout=_CLOSE_S)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled() and (error := stopping.exception()):
        _log.debug("closing the consumer: %s", error)
