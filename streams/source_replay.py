"""A source partition's log, put through an oracle up to an offset; from a checkpoint where retention has cut it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiokafka import TopicPartition

from schemas.deployment import Deployment
from schemas.errors import BadInput
from streams.checkpoint import Checkpoint
from streams.log_reader import LogReader
from streams.verdicts import Verdicts
from streams.verification_report import Report

__all__ = ["Progress", "SourceReplay"]

#: Called with (topic-partition, records read).
Progress = Callable[[str, int], None]


class SourceReplay:
    """One partition of a source topic."""

    def __init__(
        self, reader: LogReader, deployment: Deployment, source: str, partition: int, verdicts: Verdicts,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._reader, self._partition, self._verdicts, self._progress = reader, partition, verdicts, progress
        self.tp = TopicPartition(deployment.topic(source), partition)
        self.name = f"{source}-{partition}"

    async def into(self, oracle: Any, topic_id: int, cut: int | None, before: Checkpoint, report: Report) -> int:
        """Put records below `cut` into a new oracle (None: all that are committed now); where they begin.

        Counts into `report`. Raises BadInput where neither log nor checkpoint reaches back.
        """
        await self._verdicts.refresh()
        bounds = await self._reader.bounds(self.tp)
        end = cut
        if end is None:
            end = await self._reader.settled(self.tp, bounds.written)
        elif bounds.committed < end:
            report.differs(self.name, f"ends at {bounds.committed}, its tables reflect it up to {cut}")
            end = bounds.committed
        start = self._from_checkpoint(oracle, topic_id, bounds.start, end, before, report) if bounds.start > 0 else 0
        count = without_letter = 0
        async for record in self._reader.records(self.tp, start, end):
            has_letter = self._verdicts.refused(self._partition, record)
            oracle.apply(record, has_letter=has_letter)
            without_letter += record.offset in oracle.refused and not has_letter
            count += 1
            if count % 10_000 == 0:
                self._progress(self.name, count)
        self._progress(self.name, count)
        report.source_records, report.missing_dead_letters = count, without_letter
        report.refused_records = len(oracle.refused)
        report.refused_then_acceptable_now = len(oracle.acceptable_now)
        report.accepted_then_refused_now = len(oracle.refused_now)
        return start

    def _from_checkpoint(
        self, oracle: Any, topic_id: int, start: int, end: int, before: Checkpoint, report: Report
    ) -> int:
        """Put the oracle where an earlier verification stopped; the offset to go on from."""
        known = before.partitions.get(self.name)
        if known is None or known.topic_id != topic_id or not start <= known.offset <= end:
            reach = "there is no checkpoint" if known is None else f"the checkpoint stands at {known.offset}"
            raise BadInput(
                f"{self.name} starts at offset {start} and {reach}: retention has deleted records that no run "
                "has seen, so its tables cannot be recomputed. Run `aif verify` more often than retention deletes"
            )
        known.restore(oracle)
        report.horizon[self.name] = known.offset
        return known.offset
