"""`aif verify`: do the tables equal a recompute of the log, exactly, at one cut of a running system?

Per partition: the tables are read back from their changelogs up to a watermark row; that row says which source offset
they reflect; the source log up to there goes through the plain oracle; rows are compared one by one. All tables of a
lane are compared at the same cut, which exists because a batch is one transaction. Item vectors are recomputed with
the model that each row names, and compared to a tolerance of bfloat16 rounding.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from domain.artifact import path_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, BadRecord
from schemas.ids import WATERMARK_KEY, entity_id
from streams.checkpoint import Checkpoint, PartitionState
from streams.oracle import ItemsOracle
from streams.reference_rows import N2OOracle
from streams.user_oracle import UsersOracle

__all__ = ["Report", "verify"]

_SHOWN: Final = 10
_ENTITY_KEY_BYTES: Final = 8
#: Called with (topic-partition, records read).
Progress = Callable[[str, int], None]


@dataclass
class Report:
    """What a verification found."""

    rows: dict[str, int] = field(default_factory=dict)
    source_records: int = 0
    refused_records: int = 0
    missing_dead_letters: int = 0
    differences: int = 0
    first_differences: list[str] = field(default_factory=list)
    #: Source topic-partitions whose log no longer starts at 0, and the offset from which they were recomputed.
    horizon: dict[str, int] = field(default_factory=dict)

    def differs(self, where: str, what: str) -> None:
        """Count a difference and keep the first ones."""
        self.differences += 1
        if len(self.first_differences) < _SHOWN:
            self.first_differences.append(f"{where}: {what}")

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.differences == 0 and self.missing_dead_letters == 0


@dataclass(frozen=True)
class _Lane:
    source: str
    tables: tuple[str, ...]


_LANES: Final = (_Lane("item-updates", ("items", "n2o_a")), _Lane("user-events", ("users",)))


async def verify(deployment: Deployment, progress: Progress, checkpoint: Checkpoint | None = None) -> Report:
    """Compare every table of the deployment with its log.

    Partitions whose log retention has cut are recomputed from `checkpoint`; where nothing differs, `checkpoint` holds
    the state of this verification afterwards. Raises BadInput where neither log nor checkpoint reaches back.
    """
    before, after = checkpoint or Checkpoint(), Checkpoint(int(time.time() * 1000))
    report = Report()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=deployment.bootstrap_servers,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=8 << 20,
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    try:
        artifacts = await _published(consumer, deployment)
        for lane in _LANES:
            letters = await _dead_letters(consumer, deployment, lane)
            for partition in range(deployment.partitions):
                check = _Partition(consumer, deployment, lane, partition, report, progress, before, after)
                await check.run(N2OOracle(artifacts, deployment), letters)
    finally:
        await consumer.stop()
    if report.equal and checkpoint is not None:
        checkpoint.verified_at_ms, checkpoint.partitions = after.verified_at_ms, after.partitions
    return report


class _Partition:
    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        deployment: Deployment,
        lane: _Lane,
        partition: int,
        report: Report,
        progress: Progress,
        before: Checkpoint,
        after: Checkpoint,
    ) -> None:
        self._consumer, self._deployment, self._lane = consumer, deployment, lane
        self._partition, self._report, self._progress = partition, report, progress
        self._before, self._after = before, after
        self._name = f"{lane.source}-{partition}"

    async def run(self, vectors: N2OOracle, letters: set[tuple[int, int]]) -> None:
        first, *others = self._lane.tables
        rows, mark = await self._table(first, None)
        if mark is None:
            return  # nothing was ever applied here
        cut = mark["next_source_offset"]
        tables = {first: rows}
        for name in others:
            tables[name], _ = await self._table(name, cut)
        topic_id = mark["source_topic_id"]
        oracle: Any = (
            ItemsOracle(self._deployment, topic_id) if first == "items" else UsersOracle(self._deployment, topic_id)
        )
        await self._replay(oracle, topic_id, cut)
        self._after.partitions[self._name] = PartitionState.of(oracle, topic_id, cut)
        self._compare(oracle, first, rows)
        for name in others:
            self._compare_vectors(vectors, rows, tables[name], name)
        self._report.refused_records += len(oracle.refused)
        self._report.missing_dead_letters += len({(self._partition, offset) for offset in oracle.refused} - letters)

    async def _table(self, name: str, cut: int | None) -> tuple[dict[bytes, bytes], Any]:
        """Rows of a table partition at its newest watermark, or at the first one that reflects `cut`."""
        tp = TopicPartition(self._deployment.changelog(name), self._partition)
        start, end = await _bounds(self._consumer, tp)
        at_cut: dict[bytes, bytes] = {}
        since: dict[bytes, bytes | None] = {}
        mark = None
        async for record in _read(self._consumer, tp, start, end if cut is None else None):
            if record.key != WATERMARK_KEY:
                since[record.key] = record.value
                continue
            found: Any = codec("watermark").decode(record.value)
            if cut is not None and found["next_source_offset"] > cut:
                break
            mark = found
            for key, value in since.items():
                if value is None:
                    at_cut.pop(key, None)
                else:
                    at_cut[key] = value
            since.clear()
            # The transaction's marker stands behind its last row.
            if cut is not None and mark["next_source_offset"] == cut and record.offset + 2 >= end:
                break
        if cut is not None and (mark is None or mark["next_source_offset"] != cut):
            raise BadInput(f"{tp.topic}-{tp.partition} was compacted past offset {cut} during the run: verify again")
        # Entities: chunks behind a user's row are compared with it and not counted apart.
        entities = sum(len(key) == _ENTITY_KEY_BYTES for key in at_cut)
        self._report.rows[name] = self._report.rows.get(name, 0) + entities
        return at_cut, mark

    async def _replay(self, oracle: Any, topic_id: int, cut: int) -> None:
        tp = TopicPartition(self._deployment.topic(self._lane.source), self._partition)
        start, _ = await _bounds(self._consumer, tp)
        if start > 0:
            start = self._from_checkpoint(oracle, topic_id, start, cut)
        count = 0
        async for record in _read(self._consumer, tp, start, cut):
            oracle.apply(record)
            count += 1
            if count % 10_000 == 0:
                self._progress(f"{tp.topic}-{tp.partition}", count)
        self._report.source_records += count
        self._progress(f"{tp.topic}-{tp.partition}", count)

    def _from_checkpoint(self, oracle: Any, topic_id: int, start: int, cut: int) -> int:
        """Put the oracle where an earlier verification stopped; the offset to go on from."""
        known = self._before.partitions.get(self._name)
        if known is None or known.topic_id != topic_id or not start <= known.offset <= cut:
            reach = "there is no checkpoint" if known is None else f"the checkpoint stands at {known.offset}"
            raise BadInput(
                f"{self._name} starts at offset {start} and {reach}: retention has deleted records that no run "
                "has seen, so its tables cannot be recomputed. Run `aif verify` more often than retention deletes"
            )
        known.restore(oracle)
        self._report.horizon[self._name] = known.offset
        return known.offset

    def _compare(self, oracle: Any, table: str, rows: dict[bytes, bytes]) -> None:
        if table == "users":
            for user, what in oracle.differences(rows):
                self._report.differs(f"{table}-{self._partition} {user}", what)
            return
        decoded = {entity_id(key): codec("item_row").decode(value) for key, value in rows.items()}
        for entity in oracle.newest.keys() | decoded.keys():
            what = oracle.difference(entity, decoded.get(entity))
            if what:
                self._report.differs(f"{table}-{self._partition} {entity}", what)

    def _compare_vectors(
        self, vectors: N2OOracle, items: dict[bytes, bytes], rows: dict[bytes, bytes], table: str
    ) -> None:
        for key in rows.keys() - items.keys():
            self._report.differs(f"{table}-{self._partition} {entity_id(key)}", "no such item")
        for key, value in items.items():
            record = rows.get(key)
            if record is None:
                continue  # no model yet, or its rebuild has not come to this item: coverage, not a difference
            row: Any = codec("item_row").decode(value)
            what = vectors.difference(row, codec("n2o_row").decode(record)["record"])
            if what:
                self._report.differs(f"{table}-{self._partition} {entity_id(key)}", what)


async def _published(consumer: AIOKafkaConsumer, deployment: Deployment) -> dict[int, Path]:
    """Artifact folders of all published models, by version tag."""
    tp = TopicPartition(deployment.topic("model-versions"), 0)
    start, end = await _bounds(consumer, tp)
    folders = {}
    async for record in _read(consumer, tp, start, end):
        with suppress(BadRecord):  # refused by the workers too, and in the dead letters
            announced = codec("model_version").decode(record.value)
            folders[int(announced["version"], 16)] = path_of(announced["uri"])
    return folders


async def _dead_letters(consumer: AIOKafkaConsumer, deployment: Deployment, lane: _Lane) -> set[tuple[int, int]]:
    tp = TopicPartition(deployment.dead_letters(lane.source), 0)
    start, end = await _bounds(consumer, tp)
    found = set()
    async for record in _read(consumer, tp, start, end):
        with suppress(BadRecord):  # a foreign record in the topic is nobody's dead letter
            letter = codec("dead_letter").decode(record.value)
            found.add((letter["partition"], letter["offset"]))
    return found


async def _bounds(consumer: AIOKafkaConsumer, tp: TopicPartition) -> tuple[int, int]:
    consumer.assign([tp])
    return (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]


async def _read(consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int | None) -> AsyncIterator[Any]:
    """Committed records from `start` to `end` - 1; without an end, until the caller stops."""
    consumer.assign([tp])
    consumer.seek(tp, start)
    while end is None or await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=200, max_records=10_000)).values():
            for record in records:
                if end is not None and record.offset >= end:
                    return
                yield record
