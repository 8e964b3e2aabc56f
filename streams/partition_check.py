"""One source partition and its tables, compared at one cut.

The tables are read back from their changelogs as of one watermark, the log below it goes through the plain oracle.
Compaction may take rows of the cut while they are read, but only where newer ones stand behind it: then a later cut is
compared instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aiokafka import TopicPartition

from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.ids import CHUNK_KEY_BYTES, entity_key
from streams.changelog_rows import RowsAtCut
from streams.checkpoint import Checkpoint, PartitionState
from streams.comparisons import Comparison
from streams.findings import Findings
from streams.log_reader import LogReader
from streams.source_replay import SourceReplay
from streams.verification_report import Report

__all__ = ["Lane", "PartitionCheck", "Recomputed"]

#: Cuts at which a partition is compared before what compaction may have taken counts as a difference.
_ATTEMPTS: Final = 3


@dataclass(frozen=True)
class Lane:
    """A source topic and the tables that are made from it, the one that the others follow first."""

    source: str
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Recomputed:
    """An oracle that has taken a source partition from `start` (0: all of it, else a checkpoint) to `cut`."""

    oracle: Any
    topic_id: int
    start: int
    cut: int


class PartitionCheck:
    """One source partition and the same partition of its lane's tables."""

    def __init__(
        self, reader: LogReader, deployment: Deployment, lane: Lane, partition: int, topic_id: int,
        comparison: Comparison, replay: SourceReplay,
    ) -> None:  # fmt: skip
        self._reader, self._deployment, self._lane, self._partition = reader, deployment, lane, partition
        self._topic_id, self._comparison, self._replay = topic_id, comparison, replay
        self._report = Report()
        #: What the last comparison recomputed; None where nothing was ever applied.
        self.recomputed: Recomputed | None = None

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
        oracle = self._comparison.oracle(topic_id)
        start = await self._replay.into(oracle, topic_id, cut, before, self._report)
        after.partitions[self._replay.name] = PartitionState.of(oracle, topic_id, cut)
        self.recomputed = Recomputed(oracle, topic_id, start, cut)
        for name, table in tables.items():
            self._report.rows[name] = len(table.rows)
        findings = Findings(self._report, self._partition, self._lane.tables)
        await self._comparison.compare(oracle, tables, findings)
        return findings.differing

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

    def _changelog(self, table: str) -> TopicPartition:
        return TopicPartition(self._deployment.changelog(table), self._partition)


def _owner(key: bytes) -> bytes:
    """The key of the row that a chunk is behind; any other key as it is."""
    return key[: len(entity_key(0))] if len(key) == CHUNK_KEY_BYTES else key


def _apart(table: RowsAtCut, cut: int | None) -> bool:
    """Whether a table lacks the cut, or has one where the lane's first table has none."""
    return table.beyond is not None if cut is None else not table.at_cut
