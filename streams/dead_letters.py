"""Reading dead-letter topics: which records were refused, why, and which of them were sent again.

A letter's key is the coordinates of the refused record, topic-partition-offset; the newest value of a key counts. A
letter that was replayed stays, written anew with a header that says where its record went (letter_replay.py): who
looks for the fate of a record finds it, and `aif verify` goes on finding a letter for every refused record.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from aiokafka import TopicPartition

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, BadRecord, Unavailable
from schemas.records import DeadLetter
from schemas.topics import REFUSING
from streams.log_reader import LogReader
from streams.sources import topic_ids

__all__ = ["REPLAYED_HEADER", "UNREADABLE", "Entry", "LetterLog", "parse_coordinates", "source_named"]

#: On a letter whose record was sent again: topic-partition-offset of the record as it was sent.
REPLAYED_HEADER: Final = "aif-replayed-as"
#: Reason given to what is in a dead-letter topic and is no letter.
UNREADABLE: Final = "unreadable_letter"


@dataclass(frozen=True, slots=True)
class Entry:
    """One letter without the bytes of its record. `replayed_as` is empty where it was not sent again."""

    source: str
    coordinates: str
    offset: int  #: of the letter, in the dead-letter topic
    reason: str
    append_time_ms: int  #: when the refused record was written
    replayed_as: str


def source_named(name: str, deployment: Deployment) -> str:
    """The source topic that a user means, with or without the deployment's prefix. Raises BadInput."""
    for source in REFUSING:
        if name in (source, deployment.topic(source)):
            return source
    raise BadInput(f"{name!r} is no source topic; those are {', '.join(REFUSING)}")


def parse_coordinates(text: str, deployment: Deployment) -> tuple[str, str] | None:
    """Source topic and letter key of TOPIC-PARTITION-OFFSET (prefix or not); None where `text` has another form.

    Raises BadInput where it has the form and names no source topic.
    """
    topic, *numbers = text.rsplit("-", 2)
    if len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    source = source_named(topic, deployment)
    return source, f"{deployment.topic(source)}-{int(numbers[0])}-{int(numbers[1])}"


class LetterLog:
    """The dead letters of one source topic. An async context; raises Unavailable where the broker does not answer."""

    def __init__(self, deployment: Deployment, source: str) -> None:
        self.source = source
        self._deployment = deployment
        self._tp = TopicPartition(deployment.dead_letters(source), 0)
        self._reader = LogReader(deployment.bootstrap_servers)

    async def __aenter__(self) -> LetterLog:
        await asyncio.to_thread(topic_ids, self._deployment.bootstrap_servers, [self._tp.topic])
        await self._reader.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reader.__aexit__(kind, error, trace)

    async def entries(self, *, settled: bool = False) -> dict[str, Entry]:
        """The newest letter of each coordinates, in log order.

        With `settled`, waits for transactions that are open now, so that whatever was written before this call is
        seen: raises Unavailable where they do not end. Without, shows what is committed.
        """
        found: dict[str, Entry] = {}
        bounds = await self._reader.bounds(self._tp)
        end = bounds.written if settled else bounds.committed
        await self._reader.settled(self._tp, end)
        async for record in self._reader.records(self._tp, bounds.start, end):
            coordinates = record.key.decode(errors="replace") if record.key else f"?-{record.offset}"
            found.pop(coordinates, None)  # so that the order is that of the newest letters
            if record.value is not None:
                found[coordinates] = self._entry(coordinates, record)
        return found

    async def letters(self, offsets: Collection[int]) -> AsyncIterator[tuple[int, DeadLetter]]:
        """The letters at these offsets of the dead-letter topic, in log order, with their offsets."""
        wanted = frozenset(offsets)
        if not wanted:
            return
        start = max(min(wanted), (await self._reader.bounds(self._tp)).start)
        async for record in self._reader.records(self._tp, start, max(wanted) + 1):
            if record.offset in wanted and record.value is not None:
                letter: Any = codec("dead_letter").decode(record.value)
                yield record.offset, letter

    async def letter(self, entry: Entry) -> DeadLetter:
        """The letter of an entry, with the record's bytes. Raises Unavailable where it was replaced a moment ago."""
        async for _, letter in self.letters([entry.offset]):
            return letter
        raise Unavailable(f"the letter of {entry.coordinates} has just been replaced: run this again")

    def _entry(self, coordinates: str, record: Any) -> Entry:
        headers = dict(record.headers)
        try:
            letter = codec("dead_letter").decode(record.value)
            reason, append_time_ms = letter["reason"], letter["append_time_ms"]
        except BadRecord:
            reason, append_time_ms = UNREADABLE, record.timestamp
        replayed_as = headers.get(REPLAYED_HEADER, b"").decode(errors="replace")
        return Entry(self.source, coordinates, record.offset, reason, append_time_ms, replayed_as)
