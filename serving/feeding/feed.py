"""The feed: keeps a state equal to the changelogs, and what answers equal to what was decided.

The only writer of its state. An empty one starts from the workers' tables on this host where there are any, else from
the beginning of the changelogs; one that was filled before goes on from the offsets in it. It follows the changelogs
without a consumer group, committed transactions only. While the broker is away the state stays as it is and the feed
tries again, with backoff, from where it was.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from schemas.deployment import Deployment
from schemas.errors import Corrupt, Unavailable
from serving.feeding.bootstrap import Changelog, adopt_artifacts, load_tables
from serving.feeding.changelogs import FollowedTopic, followed_topics
from serving.feeding.closing import close_client
from serving.feeding.freshness import Freshness
from serving.feeding.local_tables import find_tables
from serving.feeding.state_upkeep import StateUpkeep
from serving.feeding.store_writer import ROLLOUT, StoreWriter
from serving.tables.progress import Progress
from serving.tables.store import SERVED_TABLES, TablePartition

__all__ = ["Feed"]

_CONNECT_S: Final = 5.0
_PROBE_EVERY_S: Final = 0.5
_PROBE_S: Final = 5.0
_NOTE_EVERY_S: Final = 5.0
#: A partition whose records were just taken is asked for again only when the request under way comes back, so this is
#: also the most that an idle neighbour can delay a busy partition.
_FETCH_WAIT_MS: Final = 20
_POLL_MS: Final = 100
#: How long rows of a version that was taken back are held back for this host to switch.
_FLIP_S: Final = 1.0
_FLIP_TURN_S: Final = 0.01
_MOST_RECORDS: Final = 4000
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 4.0

#: Facts of a state: ids of the topics that it was made of, and when it was last known to hold everything (wall ms).
_TOPICS: Final = b"topics"
_CURRENT: Final = b"current_ms"

_log = logging.getLogger(__name__)


class Feed:
    """Follows one deployment's changelogs into a state. `stop` may be called by any thread."""

    def __init__(
        self,
        deployment: Deployment,
        writer: StoreWriter,
        upkeep: StateUpkeep,
        progress: Progress,
        freshness: Freshness,
        tables: Path | None,
    ) -> None:
        self._deployment = deployment
        self._writer = writer
        self._upkeep = upkeep
        self._progress = progress
        self._freshness = freshness
        self._folder = tables
        self._log = TopicPartition(deployment.topic(ROLLOUT), 0)
        self._partitions = {self._log: TablePartition(ROLLOUT, 0)} | {
            TopicPartition(deployment.changelog(table), partition): TablePartition(table, partition)
            for table in SERVED_TABLES
            for partition in range(deployment.partitions)
        }
        self._local_done = tables is None or bool(writer.offsets)
        self._next: dict[TopicPartition, int] = {}
        self._from_state()
        self._targets: dict[TopicPartition, int] | None = None  #: ends to reach before the bootstrap is done
        self._reached_targets = False
        self._due_s = {"note": 0.0, "probe": 0.0}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End `run` soon; what was applied stays."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow until told to stop. Raises Corrupt where the state is no prefix of the changelogs any more."""
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            try:
                await self._session()
            # Nobody cancels this task: a cancellation is one that aiokafka let out of its inner tasks.
            except (KafkaError, Unavailable, OSError, TimeoutError, asyncio.CancelledError) as error:
                if isinstance(error, OffsetOutOfRangeError):
                    raise Corrupt(f"the changelogs hold other offsets than were applied: {error}") from error
                backoff_s = _FIRST_BACKOFF_S if self._progress.connected else min(2 * backoff_s, _LONGEST_BACKOFF_S)
                self._disconnected(error)
                if not isinstance(error, Unavailable):
                    self._serve_without_broker()
                await self._pause(backoff_s)
        self._note_current()

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
            await asyncio.wait_for(consumer.start(), _CONNECT_S)
            topics = await self._check_topics()
            consumer.assign(list(self._next))
            await self._begin(consumer, topics)
            await self._follow(consumer)
        finally:
            await close_client(consumer)

    async def _check_topics(self) -> dict[str, FollowedTopic]:
        """Raises Unavailable where a topic is not there or not as this server expects it, Corrupt if made anew."""
        names = {each.topic for each in self._next}
        topics = await asyncio.to_thread(followed_topics, self._deployment, names)
        for name in sorted(names - {self._log.topic}):
            if topics[name].partitions != self._deployment.partitions:
                raise Unavailable(
                    f"topic {name} has {topics[name].partitions} partitions, this server expects "
                    f"{self._deployment.partitions}: start it with --partitions as the topics were created"
                )
        ids = {name: topic.topic_id for name, topic in topics.items()}
        known, current_ms = self._facts()
        if known and known != ids:
            anew = sorted(name for name in ids if known.get(name) != ids[name])
            raise Corrupt(f"{', '.join(anew)} was made anew: its rows are not those that were applied")
        kept_ms = min(topic.delete_retention_ms for topic in topics.values())
        if current_ms is not None and (idle_ms := time.time() * 1000 - current_ms) > kept_ms:
            raise Corrupt(
                f"the state was last current {idle_ms / 3.6e6:.1f} h ago, and the changelogs keep deletions for "
                f"{kept_ms / 3.6e6:.1f} h: some may have been missed"
            )
        self._writer.note({_TOPICS: orjson.dumps(ids)})
        return topics

    async def _begin(self, consumer: Any, topics: Mapping[str, FollowedTopic]) -> None:
        """Load what is local, check that the changelogs go on from there, and place the consumer."""
        if not self._local_done and self._folder is not None:
            self._local_done = True
            found = find_tables(self._folder, self._deployment)
            # Asked after the tables were looked at: a live worker's table may be ahead of any older answer.
            ends = await asyncio.wait_for(consumer.end_offsets(list(self._next)), _PROBE_S)
            changelogs = {
                at: Changelog(topics[partition.topic].topic_id, ends[partition])
                for partition, at in self._partitions.items()
            }
            load_tables(self._writer, found, changelogs)
            self._from_state()
        starts = await asyncio.wait_for(consumer.beginning_offsets(list(self._next)), _PROBE_S)
        ends = await asyncio.wait_for(consumer.end_offsets(list(self._next)), _PROBE_S)
        for partition, position in self._next.items():
            if position == 0:
                self._next[partition] = position = starts[partition]
                if partition == self._log:
                    self._writer.forget_decisions()
            _require_same_topic(partition, position, starts[partition], ends[partition])
            consumer.seek(partition, position)
        if self._targets is None:
            self._targets = ends
        self._progress.connected = True
        self._progress.says = "reading the changelogs"
        _log.info("connected to %s; %d offsets to read", self._deployment.bootstrap_servers, self._note_lag(ends))

    async def _follow(self, consumer: Any) -> None:
        while not self._stopping.is_set():
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MOST_RECORDS)
            # Decisions first: what they say of a slot is older than the rows that follow it there.
            for partition, records in sorted(fetched.items(), key=lambda each: each[0] != self._log):
                if self._gives_up(self._partitions[partition].table, records):
                    await self._flip_first(consumer)
                self._apply(partition, records)
                await asyncio.sleep(0)
            for partition in self._next:
                # Beyond the last record: transaction markers and compacted offsets count as read.
                self._next[partition] = await consumer.position(partition)
            self._check_caught_up()
            if self._is_due("probe", _PROBE_EVERY_S):
                asked_s = time.monotonic()
                ends = await asyncio.wait_for(consumer.end_offsets(list(self._next)), _PROBE_S)
                for partition, end in ends.items():
                    _require_same_topic(partition, self._next[partition], 0, end)
                if not self._note_lag(ends):
                    self._progress.current_at_s = asked_s
                    if self._is_due("note", _NOTE_EVERY_S):
                        self._note_current()
            self._upkeep.step()

    def _gives_up(self, table: str, records: Sequence[Any]) -> bool:
        """Whether these rows may be the end of the version that answers: workers empty a slot that was taken back."""
        return self._upkeep.answers_from(table) and any(record.value is None for record in records)

    async def _flip_first(self, consumer: Any) -> None:
        """Read all that was decided before the rows at hand, and give this host a moment to switch, once a decision.

        Topics have no order among each other: without this, the last answers of a version would miss rows.
        """
        end = (await asyncio.wait_for(consumer.end_offsets([self._log]), _PROBE_S))[self._log]
        while self._next[self._log] < end and not self._stopping.is_set():
            for partition, records in (await consumer.getmany(self._log, timeout_ms=_POLL_MS)).items():
                self._apply(partition, records)
            self._next[self._log] = await consumer.position(self._log)
        until_s = time.monotonic() + _FLIP_S
        while self._upkeep.waits_to_flip() and time.monotonic() < until_s and not self._stopping.is_set():
            self._upkeep.step()
            await asyncio.sleep(_FLIP_TURN_S)
        self._upkeep.stop_waiting()

    def _apply(self, partition: TopicPartition, records: Sequence[Any]) -> None:
        """Apply fetched records of a partition and note how old their oldest events were by then."""
        at, next_offset = self._partitions[partition], records[-1].offset + 1
        if at.table == ROLLOUT:
            self._writer.decide([(record.offset, record.value) for record in records], next_offset)
        else:
            keys, values = [record.key for record in records], [record.value for record in records]
            marks = self._writer.apply(at, keys, values, next_offset)
            # While it reads what was there before it started, the server is late, not the data.
            if self._reached_targets:
                now_ms = time.time() * 1000
                for mark in marks:
                    if mark["oldest_append_time_ms"]:
                        self._freshness.add(at.table, now_ms - mark["oldest_append_time_ms"])
        self._next[partition] = next_offset

    def _serve_without_broker(self) -> None:
        """Serve what a state holds already, or this host's tables alone, where there are any."""
        if not self._local_done and self._folder is not None:
            self._local_done = True
            if load_tables(self._writer, find_tables(self._folder, self._deployment), None):
                adopt_artifacts(self._writer, self._deployment.data_dir / "artifacts")
                self._from_state()
        if any(at.table != ROLLOUT for at in self._writer.offsets):
            self._progress.caught_up = True

    def _from_state(self) -> None:
        offsets = self._writer.offsets
        self._next = {partition: offsets.get(at, 0) for partition, at in self._partitions.items()}

    def _facts(self) -> tuple[dict[str, int], float | None]:
        with self._writer.store.rows.reading() as txn:
            topics, current = txn.get("facts", _TOPICS), txn.get("facts", _CURRENT)
        return (orjson.loads(topics) if topics else {}), (float(current) if current else None)

    def _note_current(self) -> None:
        """Keep since when the state is behind, for the next start."""
        if self._progress.current_at_s is not None:
            age_ms = 1000 * (time.monotonic() - self._progress.current_at_s)
            self._writer.note({_CURRENT: str(int(time.time() * 1000 - age_ms)).encode()})

    def _note_lag(self, ends: Mapping[TopicPartition, int]) -> int:
        lag = {
            at: max(0, ends[partition] - self._next[partition])
            for partition, at in self._partitions.items()
            if partition != self._log
        }
        self._progress.lag = lag
        return sum(lag.values())

    def _check_caught_up(self) -> None:
        targets = self._targets
        if self._reached_targets or targets is None:
            return
        if all(self._next[partition] >= end for partition, end in targets.items()):
            self._reached_targets = self._progress.caught_up = True
            self._progress.says = "following the changelogs"
            store, slabs = self._writer.store, self._writer.slabs.values()
            _log.info(
                "caught up: %d items, %d users, %d rows, %.1f MB; slabs take at most %.1f MB",
                len(store.items), len(store.users), sum(map(len, slabs)), store.nbytes / 1e6,
                sum(slab.most_bytes for slab in slabs) / 1e6,
            )  # fmt: skip

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
            self._upkeep.step()
            await asyncio.sleep(0.05)

    def _is_due(self, what: str, every_s: float) -> bool:
        now_s = time.monotonic()
        if now_s - self._due_s[what] < every_s:
            return False
        self._due_s[what] = now_s
        return True


def _require_same_topic(partition: TopicPartition, position: int, start: int, end: int) -> None:
    """Raises Corrupt where what was applied is not what this topic holds before `position`."""
    if not start <= position <= end:
        raise Corrupt(
            f"{partition.topic}-{partition.partition} holds offsets {start} to {end}, but {position} were applied: "
            "the topic was made anew, or lost records"
        )
