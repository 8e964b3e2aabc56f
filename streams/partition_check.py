"""One source partition and its tables, compared at one cut.

The tables are read back from their changelogs as of one watermark, the log below it goes through the plain oracle.
Compaction may take rows of the cut while they are read, but only where newer ones stand behind it: then a later cut is
compared instead.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka import TopicPartition

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, BadRecord, Unavailable
from schemas.ids import CHUNK_KEY_BYTES, chunk_of, entity_id, entity_key
from streams.changelog_rows import RowsAtCut
from streams.checkpoint import Checkpoint, PartitionState
from streams.log_reader import LogReader
from streams.oracle import ItemsOracle
from streams.reference_rows import N2OOracle
from streams.user_oracle import UsersOracle
from streams.verdicts import Verdicts
from streams.verification_report import Coverage, Report

__all__ = ["Lane", "PartitionCheck", "Progress"]

#: Cuts at which a partition is compared before what compaction may have taken counts as a difference.
_ATTEMPTS: Final = 3
#: Called with (topic-partition, records read).
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Lane:
    """A source topic and the tables that are made from it, the one that the others follow first."""

    source: str
    tables: tuple[str, ...]


class PartitionCheck:
    """One source partition and the same partition of its lane's tables."""

    def __init__(
        self,
        reader: LogReader,
        deployment: Deployment,
        lane: Lane,
        partition: int,
        topic_id: int,
        models: dict[int, Path],
        verdicts: Verdicts,
        progress: Progress,
    ) -> None:
        self._reader, self._deployment, self._lane, self._partition = reader, deployment, lane, partition
        self._topic_id, self._models, self._verdicts, self._progress = topic_id, models, verdicts, progress
        self._vectors = N2OOracle(models, deployment)
        self._name = f"{lane.source}-{partition}"
        self._report = Report()

    async def run(self, before: Checkpoint, after: Checkpoint) -> Report:
        """Compare at the newest cut; again at a later one where compaction may have taken what differs."""
        cuts: list[int | None] = []
        apart: list[str] = []
        for _ in range(_ATTEMPTS):
            self._report = Report()
            tables = await self._tables()
            mark = tables[self._lane.tables[0]].mark
            cuts.append(mark["next_source_offset"] if mark else None)
            apart = [name for name in self._lane.tables[1:] if _apart(tables[name], cuts[-1])]
            if apart:
                # A watermark that compaction has taken had a newer one behind it, in the first table too by now.
                passed = all(tables[name].beyond is not None for name in apart)
                if passed and cuts[-1] not in cuts[:-1]:
                    continue
                for name in apart:
                    self._report.differs(f"{name}-{self._partition}", f"is not at offset {cuts[-1]}, as {self._first}")
                return self._report
            if mark is None:
                return self._report  # nothing was ever applied here
            differing = await self._compare(tables, mark, before, after)
            if not await self._overtaken(tables, differing):
                return self._report
        if apart:
            raise Unavailable(
                f"{self._first}: compaction took the watermarks of {_ATTEMPTS} cuts while they were looked for in "
                f"{', '.join(apart)}; verify again, or with the workers stopped"
            )
        return self._report

    @property
    def _first(self) -> str:
        return f"{self._lane.tables[0]}-{self._partition}"

    async def _tables(self) -> dict[str, RowsAtCut]:
        """Every table of the lane at the newest cut that the first one has."""
        first, *others = self._lane.tables
        tables = {first: await self._table(first, None)}
        mark = tables[first].mark
        # Without a watermark in the first, none is right for the others: any is beyond -1.
        cut = mark["next_source_offset"] if mark else -1
        for name in others:
            tables[name] = await self._table(name, cut, mark["source_topic_id"] if mark else None)
        return tables

    async def _table(self, name: str, cut: int | None, topic_id: int | None = None) -> RowsAtCut:
        tp = self._changelog(name)
        rows = RowsAtCut(cut, topic_id)
        bounds = await self._reader.bounds(tp)
        position, end = bounds.start, bounds.committed
        while True:
            async for record in self._reader.records(tp, position, end):
                if not rows.take(record):
                    return rows
            if cut is None or cut < 0 or rows.at_cut:
                return rows
            # The markers of a transaction come to its partitions one by one: this one's may be on its way.
            written = (await self._reader.bounds(tp)).written
            if written == end:
                return rows
            position, end = end, await self._reader.settled(tp, end + 1)

    async def _compare(
        self, tables: dict[str, RowsAtCut], mark: Any, before: Checkpoint, after: Checkpoint
    ) -> dict[str, set[bytes]]:
        """Compare tables with the log; the keys of rows that differ, by table."""
        topic_id, cut = mark["source_topic_id"], mark["next_source_offset"]
        if topic_id != self._topic_id:
            raise BadInput(
                f"{self._first} reflects a topic {self._lane.source} that was deleted since: its log is gone. "
                "Let the workers read the new one, then verify again"
            )
        first, *others = self._lane.tables
        oracle: Any = (ItemsOracle if first == "items" else UsersOracle)(self._deployment, topic_id)
        await self._verdicts.refresh()
        await self._replay(oracle, topic_id, cut, before)
        after.partitions[self._name] = PartitionState.of(oracle, topic_id, cut)
        differing: dict[str, set[bytes]] = {name: set() for name in self._lane.tables}
        for name, table in tables.items():
            self._report.rows[name] = len(table.rows)
        if isinstance(oracle, UsersOracle):
            differing[first] |= self._compare_users(oracle, tables[first].rows, differing)
            return differing
        rows = self._decoded(first, "item_row", tables[first].rows, differing)
        differing[first] |= self._compare_items(oracle, rows)
        for name in others:
            vectors = self._decoded(name, "n2o_row", tables[name].rows, differing)
            differing[name] |= self._compare_vectors(rows, vectors, name)
        return differing

    def _decoded(
        self,
        table: str,
        schema: str,
        rows: dict[bytes, bytes],
        differing: dict[str, set[bytes]],
        place: Callable[[bytes], Any] = entity_id,
    ) -> dict[Any, Any]:
        """Rows by what `place` makes of their keys; those that are no rows of the table differ."""
        decode, found = codec(schema).decode, {}
        for key, value in rows.items():
            try:
                found[place(key)] = decode(value)
            except (BadRecord, ValueError, struct.error) as error:
                self._report.differs(f"{table}-{self._partition} key {key.hex()}", f"is no row of the table: {error}")
                differing[table].add(key)
        return found

    async def _overtaken(self, tables: dict[str, RowsAtCut], differing: dict[str, set[bytes]]) -> bool:
        """Whether a row that differs was overwritten behind the cut: compaction may have taken the right one."""
        if not any(differing.values()):
            return False
        # A row of vectors is judged by its item's, a user's with its chunks: any may be what compaction took.
        suspects = set(map(_owner, set().union(*differing.values())))
        for name, table in tables.items():
            tp = self._changelog(name)
            end = (await self._reader.bounds(tp)).committed
            async for record in self._reader.records(tp, table.next_offset, end):
                if _owner(record.key) in suspects:
                    return True
        return False

    async def _replay(self, oracle: Any, topic_id: int, cut: int, before: Checkpoint) -> None:
        tp = TopicPartition(self._deployment.topic(self._lane.source), self._partition)
        bounds = await self._reader.bounds(tp)
        if bounds.committed < cut:
            self._report.differs(self._name, f"ends at {bounds.committed}, its tables reflect it up to {cut}")
        start = self._from_checkpoint(oracle, topic_id, bounds.start, cut, before) if bounds.start > 0 else 0
        count = without_letter = 0
        async for record in self._reader.records(tp, start, min(cut, bounds.committed)):
            has_letter = self._verdicts.refused(self._partition, record)
            oracle.apply(record, has_letter=has_letter)
            without_letter += record.offset in oracle.refused and not has_letter
            count += 1
            if count % 10_000 == 0:
                self._progress(self._name, count)
        self._progress(self._name, count)
        report = self._report
        report.source_records, report.missing_dead_letters = count, without_letter
        report.refused_records = len(oracle.refused)
        report.refused_then_acceptable_now = len(oracle.acceptable_now)
        report.accepted_then_refused_now = len(oracle.refused_now)

    def _from_checkpoint(self, oracle: Any, topic_id: int, start: int, cut: int, before: Checkpoint) -> int:
        """Put the oracle where an earlier verification stopped; the offset to go on from."""
        known = before.partitions.get(self._name)
        if known is None or known.topic_id != topic_id or not start <= known.offset <= cut:
            reach = "there is no checkpoint" if known is None else f"the checkpoint stands at {known.offset}"
            raise BadInput(
                f"{self._name} starts at offset {start} and {reach}: retention has deleted records that no run "
                "has seen, so its tables cannot be recomputed. Run `aif verify` more often than retention deletes"
            )
        known.restore(oracle)
        self._report.horizon[self._name] = known.offset
        return known.offset

    def _compare_items(self, oracle: ItemsOracle, rows: dict[int, Any]) -> set[bytes]:
        return {
            self._differs(self._lane.tables[0], item, what)
            for item in oracle.newest.keys() | rows.keys()
            if (what := oracle.difference(item, rows.get(item)))
        }

    def _compare_users(
        self, oracle: UsersOracle, rows: dict[bytes, bytes], differing: dict[str, set[bytes]]
    ) -> set[bytes]:
        """Heads with the chunks behind them; these are not counted apart."""
        table = self._lane.tables[0]
        behind = {key: value for key, value in rows.items() if len(key) == CHUNK_KEY_BYTES}
        heads = self._decoded(table, "user_head", {key: rows[key] for key in rows if key not in behind}, differing)
        chunks: dict[int, dict[int, bytes]] = {}
        for (user, number), chunk in self._decoded(table, "user_chunk", behind, differing, chunk_of).items():
            chunks.setdefault(user, {})[number] = chunk["behaviours"]
        self._report.rows[table] -= len(behind)
        return {self._differs(table, user, what) for user, what in oracle.differences(heads, chunks)}

    def _compare_vectors(self, items: dict[int, Any], rows: dict[int, Any], table: str) -> set[bytes]:
        """Every vector there is must be right; how many there are is coverage: a rebuild may be on its way."""
        newest = next(reversed(self._models), None)
        coverage = self._report.coverage[table] = Coverage(None if newest is None else f"{newest:016x}")
        records: dict[int, bytes] = {entity: row["record"] for entity, row in rows.items()}
        differing = {self._differs(table, entity, "no such item") for entity in records.keys() - items.keys()}
        for entity, row in items.items():
            record = records.get(entity)
            if record is not None and (what := self._vectors.difference(row, record)):
                differing.add(self._differs(table, entity, what))
            if not row["deleted"]:
                coverage.count(None if record is None else N2OOracle.version_tag(record), newest)
        return differing

    def _differs(self, table: str, entity: int, what: str) -> bytes:
        self._report.differs(f"{table}-{self._partition} {entity}", what)
        return entity_key(entity)

    def _changelog(self, table: str) -> TopicPartition:
        return TopicPartition(self._deployment.changelog(table), self._partition)


def _owner(key: bytes) -> bytes:
    """The key of the row that a chunk is behind; any other key as it is."""
    return key[: len(entity_key(0))] if len(key) == CHUNK_KEY_BYTES else key


def _apart(table: RowsAtCut, cut: int | None) -> bool:
    """Whether a table lacks the cut, or has one where the lane's first table has none."""
    return table.beyond is not None if cut is None else not table.at_cut
