"""Reading dead-letter topics: which records were refused, why, and which of them were sent again.

A letter's key is the coordinates of the refused record, topic-partition-offset; the newest value of a key counts. A
letter that was replayed stays, written anew with a header that says where its record went (letter_replay.py): who
looks for the fate of a record finds it, and `aif verify` goes on finding a letter for every refused record.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, BadRecord, Unavailable
from schemas.records import DeadLetter
from schemas.topics import TOPICS

__all__ = ["REPLAYED_HEADER", "UNREADABLE", "Entry", "LetterLog", "parse_coordinates", "source_named"]

#: On a letter whose record was sent again: topic-partition-offset of the record as it was sent.
REPLAYED_HEADER: Final = "aif-replayed-as"
#: Reason given to what is in a dead-letter topic and is no letter.
UNREADABLE: Final = "unreadable_letter"

#: A transaction that nobody ends is aborted by the broker after 60 s at most; see changelog.py.
_SETTLED_WITHIN_S: Final = 90.0
_IDLE_POLL_MS: Final = 200
#: A reader that does not wait for open transactions stops after this much silence.
_SILENCE_S: Final = 2.0


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
    for source in TOPICS:
        if name in (source, deployment.topic(source)):
            return source
    raise BadInput(f"{name!r} is no source topic; those are {', '.join(TOPICS)}")


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
        self._consumer = self._client("read_committed")

    async def __aenter__(self) -> LetterLog:
        with _translated(self._tp.topic):
            await self._consumer.start()
        if self._tp.topic not in await self._consumer.topics():
            await self._consumer.stop()
            raise BadInput(
                f"topic {self._tp.topic} does not exist at {self._deployment.bootstrap_servers}: run "
                "`aif topics create`, or name the deployment with --prefix"
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def entries(self, *, settled: bool = False) -> dict[str, Entry]:
        """The newest letter of each coordinates, in log order.

        With `settled`, waits for transactions that are open now, so that whatever was written before this call is
        seen: raises Unavailable where they do not end. Without, shows what is committed.
        """
        found: dict[str, Entry] = {}
        async for record in self._records(await self._settled_end() if settled else None):
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
        async for record in self._records(max(wanted) + 1, start=min(wanted)):
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

    async def _settled_end(self) -> int:
        """Offset behind the last record, those of open transactions included."""
        consumer = self._client("read_uncommitted")
        with _translated(self._tp.topic):
            await consumer.start()
            try:
                return int((await consumer.end_offsets([self._tp]))[self._tp])
            finally:
                await consumer.stop()

    async def _records(self, settled_end: int | None, start: int = 0) -> AsyncIterator[Any]:
        consumer, tp = self._consumer, self._tp
        with _translated(tp.topic):
            consumer.assign([tp])
            consumer.seek(tp, max(start, (await consumer.beginning_offsets([tp]))[tp]))
            end = settled_end if settled_end is not None else (await consumer.end_offsets([tp]))[tp]
            patience_s = _SILENCE_S if settled_end is None else _SETTLED_WITHIN_S
            heard = time.monotonic()
            while await consumer.position(tp) < end:
                batch = (await consumer.getmany(tp, timeout_ms=_IDLE_POLL_MS, max_records=5_000)).get(tp, [])
                if batch:
                    heard = time.monotonic()
                elif time.monotonic() - heard > patience_s:
                    if settled_end is None:
                        return
                    raise Unavailable(
                        f"{tp.topic}: a transaction is open since {patience_s:.0f} s; is a worker stopped (SIGSTOP) "
                        "in the middle of a batch? End it and run this again"
                    )
                for record in batch:
                    if record.offset < end:
                        yield record

    def _client(self, isolation_level: str) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._deployment.bootstrap_servers,
            isolation_level=isolation_level,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=8 << 20,
            fetch_max_wait_ms=100,
        )


@contextmanager
def _translated(topic: str) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise Unavailable(f"reading {topic}: {type(error).__name__}: {error}; try again") from error
