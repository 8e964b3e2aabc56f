"""The log's own verdicts on source records: which of them have a dead letter."""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from streams.fold import SourceRecord
from streams.log_reader import LogReader

__all__ = ["Verdicts"]


class Verdicts:
    """The dead letters of one source topic, read on with each `refresh`."""

    def __init__(self, reader: LogReader, deployment: Deployment, source: str) -> None:
        self._reader, self._topic = reader, deployment.topic(source)
        self._tp = TopicPartition(deployment.dead_letters(source), 0)
        self._next = 0
        #: LogAppendTime of the refused record by the letter's key, its coordinates.
        self._letters: dict[bytes, int] = {}

    async def refresh(self) -> None:
        """Take in every letter written before the call, waiting for transactions that hold some back.

        A letter and the watermark behind its record are one transaction: called after a watermark was read, this finds
        the letters of all records below it. Raises Unavailable where an open transaction does not end.
        """
        bounds = await self._reader.bounds(self._tp)
        end = await self._reader.settled(self._tp, bounds.written)
        async for record in self._reader.records(self._tp, max(self._next, bounds.start), end):
            self.take(record)
        self._next = end

    def take(self, record: Any) -> None:
        """Take the next record of the dead-letter topic; one that is no letter is nobody's."""
        if record.key is None:
            return
        self._letters.pop(record.key, None)
        try:
            self._letters[record.key] = codec("dead_letter").decode(record.value)["append_time_ms"]
        except BadRecord:
            return

    def refused(self, partition: int, record: SourceRecord) -> bool:
        """Whether the record has a letter; one of a deleted topic's record at the same offset is of another time."""
        return self._letters.get(f"{self._topic}-{partition}-{record.offset}".encode()) == record.timestamp
