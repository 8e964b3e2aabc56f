"""How far the tables are behind their topics, and how old what they hold is.

What counts is the watermark row at the end of each changelog: it says which source offset is applied for good. The
group's committed offset is shown beside it because other tools show that one; workers do not start from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import TopicPartition
from kafka.errors import CoordinatorNotAvailableError, NotCoordinatorError

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import WATERMARK_KEY
from schemas.records import Watermark
from schemas.topics import LANES, TABLES
from streams.changelog import translated
from streams.sources import asking, source_topic_ids
from streams.topic_reader import TopicReader, committed_consumer, lone_consumer

__all__ = ["PartitionLag", "applied_offset", "last_watermark", "measure"]

#: Records from the end of a changelog that are read first. The last row of a transaction is the watermark, its marker
#: stands behind; aborted transactions put more between.
_FIRST_STEP: Final = 64
_WIDEN: Final = 16
#: Up to this many offsets behind, records are counted: the last offsets may be markers of transactions.
_COUNTED: Final = 256
_SILENCE_S: Final = 2.0
#: How long the group's coordinator may be unknown.
_COORDINATOR_WITHIN_S: Final = 8.0


@dataclass(frozen=True)
class PartitionLag:
    """One source partition and the same partition of its tables.

    `end` is behind the last record, `readable_end` behind the last one not held back by an open transaction. `marks`
    has the watermark of each table, None where nothing was ever applied. `lag` counts records.
    """

    source: str
    partition: int
    end: int
    readable_end: int
    committed: int | None
    applied: int
    lag: int
    marks: Mapping[str, Watermark | None] = field(default_factory=dict)
    owner: str = ""

    @property
    def held_back(self) -> int:
        """Offsets that wait behind an open transaction."""
        return self.end - self.readable_end

    def batch_age_s(self, now_ms: int) -> float | None:
        """Seconds since the last batch of the table that is behind most; None before the first."""
        times = [mark["wall_time_ms"] for mark in self.marks.values() if mark]
        return (now_ms - min(times)) / 1000 if times else None

    @property
    def event_clock_ms(self) -> int | None:
        """Newest valid event time applied; None before the first."""
        times = [mark["max_event_time_ms"] for mark in self.marks.values() if mark and mark["max_event_time_ms"]]
        return min(times) if times else None


async def measure(deployment: Deployment) -> list[PartitionLag]:
    """Every source partition's lag. Raises Unavailable where the broker does not answer, BadInput without topics."""
    topics = [deployment.topic(source) for source in LANES]
    ids = await asyncio.to_thread(source_topic_ids, deployment, [*topics, *map(deployment.changelog, TABLES)])
    committed, owners = await asyncio.to_thread(_group, deployment)
    found = []
    with translated(f"asking {deployment.bootstrap_servers} for the ends of topics"):
        async with _Reader(deployment) as reader:
            starts, ends, readable = await reader.bounds(_partitions(deployment, topics))
            marks = await reader.watermarks(_partitions(deployment, map(deployment.changelog, TABLES)))
            for source, tables in LANES.items():
                for tp in _partitions(deployment, [deployment.topic(source)]):
                    ours = {table: marks[TopicPartition(deployment.changelog(table), tp.partition)] for table in tables}
                    applied = applied_offset(ours.values(), ids[tp.topic], starts[tp])
                    lag = await reader.records_between(tp, applied, ends[tp])
                    where = source, tp.partition, ends[tp], readable[tp], committed.get(tp), applied
                    found.append(PartitionLag(*where, lag, ours, owners.get(tp, "")))
    return found


def applied_offset(marks: Iterable[Watermark | None], topic_id: int, start: int) -> int:
    """First source offset that some table of a lane has not applied; marks of a re-created topic say nothing."""
    offsets = [
        max(start, mark["next_source_offset"]) if mark and mark["source_topic_id"] == topic_id else start
        for mark in marks
    ]
    return min(offsets, default=start)


def last_watermark(records: Iterable[Any]) -> Watermark | None:
    """The newest readable watermark among some records of a changelog partition, in log order."""
    newest: Watermark | None = None
    for record in records:
        if record.key == WATERMARK_KEY:
            try:
                newest = codec("watermark").decode(record.value)  # type: ignore[assignment]
            except BadRecord:
                continue  # of a newer build: the one before it is shown
    return newest


def _partitions(deployment: Deployment, topics: Iterable[str]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for topic in topics for partition in range(deployment.partitions)]


def _of_coordinator(admin: Any, group: str) -> tuple[Any, Any]:
    """Offsets and description of a group; a broker that has just started takes seconds to name the coordinator."""
    deadline = time.monotonic() + _COORDINATOR_WITHIN_S
    while True:
        try:
            return admin.list_group_offsets({group: None})[group], admin.describe_groups([group])[group]
        except (CoordinatorNotAvailableError, NotCoordinatorError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _group(deployment: Deployment) -> tuple[dict[Any, int], dict[Any, str]]:
    """Committed offset and owner of each source partition of the group."""
    with asking(deployment.bootstrap_servers, f"who is in group {deployment.group}") as admin:
        offsets, described = _of_coordinator(admin, deployment.group)
    committed = {
        TopicPartition(tp.topic, tp.partition): found.offset for tp, found in offsets.items() if found.offset >= 0
    }
    return committed, _owners(described.get("members", []))


def _owners(members: Iterable[Mapping[str, Any]]) -> dict[Any, str]:
    owners = {}
    for member in members:
        assignment = member["member_assignment"]
        if not isinstance(assignment, Mapping):
            continue  # a rebalance is going on
        # Faust's member ids are its name, version and a uuid: the end is enough to tell workers apart.
        name = member.get("group_instance_id") or member["member_id"][-8:]
        for topic in assignment["assigned_partitions"]:
            for partition in topic["partitions"]:
                owners[TopicPartition(topic["topic"], partition)] = f"{name}@{member['client_host'].lstrip('/')}"
    return owners


class _Reader(TopicReader):
    """Reads the ends of topics."""

    def __init__(self, deployment: Deployment) -> None:
        servers = deployment.bootstrap_servers
        self._all = lone_consumer(servers)
        self._committed = committed_consumer(servers, auto_offset_reset="earliest", fetch_max_wait_ms=50)
        super().__init__(f"connecting to {servers}", self._all, self._committed)

    async def bounds(
        self, tps: list[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int], dict[TopicPartition, int]]:
        """First offset, end, and end of what open transactions do not hold back."""
        return (
            await self._all.beginning_offsets(tps),
            await self._all.end_offsets(tps),
            await self._committed.end_offsets(tps),
        )

    async def watermarks(self, tps: list[TopicPartition]) -> dict[TopicPartition, Watermark | None]:
        """The last committed watermark of each changelog partition; None where it has none."""
        starts, ends = await self._committed.beginning_offsets(tps), await self._committed.end_offsets(tps)
        found: dict[TopicPartition, Watermark | None] = dict.fromkeys(tps)
        step, missing = _FIRST_STEP, [tp for tp in tps if ends[tp] > starts[tp]]
        while missing:
            begin = {tp: max(starts[tp], ends[tp] - step) for tp in missing}
            records = await self._read(begin, ends)
            found |= {tp: last_watermark(records[tp]) for tp in missing}
            missing = [tp for tp in missing if found[tp] is None and begin[tp] > starts[tp]]
            step *= _WIDEN
        return found

    async def records_between(self, tp: TopicPartition, start: int, end: int) -> int:
        """Records from `start` on: counted where there are few offsets, else taken to be as many as offsets."""
        if end - start > _COUNTED or end <= start:
            return max(0, end - start)
        counted = len((await self._read({tp: start}, {tp: end}))[tp])
        position: int = await self._committed.position(tp)
        return counted + max(0, end - position)

    async def _read(
        self, begin: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, list[Any]]:
        """Committed records of each partition up to its end, or to an open transaction."""
        consumer, open_tps = self._committed, set(begin)
        consumer.assign(list(begin))
        for tp, offset in begin.items():
            consumer.seek(tp, offset)
        found: dict[TopicPartition, list[Any]] = {tp: [] for tp in begin}
        heard = time.monotonic()
        while open_tps and time.monotonic() - heard < _SILENCE_S:
            for tp, records in (await consumer.getmany(*open_tps, timeout_ms=100, max_records=20_000)).items():
                heard = time.monotonic()
                found[tp] += [record for record in records if record.offset < ends[tp]]
            open_tps = {tp for tp in open_tps if await consumer.position(tp) < ends[tp]}
        return found
