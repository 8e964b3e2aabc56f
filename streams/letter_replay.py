"""Sending refused records again after a fix, each once.

The record goes back to its source topic with its original key and value, to the partition of its key (of a topic that
is partitioned otherwise, to where it was), and its letter is marked; both are one Kafka transaction, so no crash leaves
one without the other. Replays of a source topic share a transactional id: a second one ends the first one's unfinished
transaction and fences it, and reads the letters after that, so two at once cannot double a record either. And a record
that was sent twice all the same, by a producer or because a letter was written anew when the log was read again,
changes nothing while its event_id is remembered, or, of item-activity, because its offsets are.

Transaction markers stand in the source topic behind the records: offsets of a source partition have gaps.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced

from domain.activity_events import check_item_activity
from domain.partitioner import partition_of
from domain.validation import check_item_update, check_user_event
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord, Unavailable
from schemas.ids import ENTITY_KEY_BYTES, entity_id
from schemas.records import DeadLetter
from schemas.topics import TOPICS
from streams.dead_letters import REPLAYED_HEADER, UNREADABLE, Entry, LetterLog
from streams.failpoint import NO_FAILPOINT, Failpoint
from streams.intake import Check
from streams.sources import source_topic_ids

__all__ = ["PROVENANCE_HEADER", "Outcome", "refusal", "replay", "unreplayable"]

#: On a record that was sent again: the coordinates of the record that was refused.
PROVENANCE_HEADER: Final = "aif-dead-letter"

#: Of one transaction: what a crash leaves undone, and how often the bar moves.
_CHUNK_LETTERS: Final = 500
_CHUNK_BYTES: Final = 8 << 20
#: While a crashed replay's transaction is open, workers wait behind it; the next replay ends it at once.
_TRANSACTION_TIMEOUT_MS: Final = 15_000
_CHECKS: Final[dict[str, Check]] = {
    "item-updates": check_item_update,
    "user-events": check_user_event,
    "item-activity": check_item_activity,
}


@dataclass
class Outcome:
    """What a replay of one source topic did, or would do.

    `sent` counts records; `replayed_before` letters that match and are marked; `unreplayable` by why; `refused_again`
    those of `sent` that this process's settings would refuse once more, by reason.
    """

    source: str
    sent: int = 0
    replayed_before: int = 0
    unreplayable: Counter[str] = field(default_factory=Counter)
    refused_again: Counter[str] = field(default_factory=Counter)


def unreplayable(letter: DeadLetter, source: str, deployment: Deployment) -> str:
    """Why a record cannot be sent again; empty where it can."""
    if letter["topic"] != deployment.topic(source):
        return f"is of topic {letter['topic']}"
    if TOPICS[source].partitions == 1:
        return ""
    key = letter["key"]
    if key is None:
        return "null key"
    return "" if len(key) == ENTITY_KEY_BYTES else f"malformed key ({len(key)} bytes, not {ENTITY_KEY_BYTES})"


def refusal(letter: DeadLetter, source: str, deployment: Deployment, now_ms: int) -> BadRecord | None:
    """Why this process's settings would refuse the record if it were written now; None where they would not."""
    try:
        record = codec(TOPICS[source].schema).decode(letter["value"])
        if source in _CHECKS:
            _CHECKS[source](record, letter["key"], now_ms, deployment)
    except BadRecord as error:
        return error
    return None


async def replay(
    deployment: Deployment,
    source: str,
    chosen: Callable[[Entry], bool],
    *,
    dry_run: bool,
    progress: Callable[[int, int], None] = lambda done, of: None,
    failpoint: Failpoint = NO_FAILPOINT,
) -> Outcome:
    """Send the records of the chosen letters again, in the order of their letters; with `dry_run`, only look.

    `progress` gets (letters done, letters to do). `failpoint` knows the steps `sent` (records acknowledged, letters not
    marked) and `committed`. Raises Unavailable where the broker does not answer or another replay takes over; what was
    done by then is done, and the next run goes on from there.
    """
    if TOPICS[source].partitions != 1:
        await asyncio.to_thread(
            source_topic_ids, deployment, [deployment.topic(source)]
        )  # refuses a wrong --partitions
    async with LetterLog(deployment, source) as log:
        if dry_run:
            return await _Run(log, deployment, None, failpoint).over(chosen, progress)
        producer = AIOKafkaProducer(
            bootstrap_servers=deployment.bootstrap_servers,
            transactional_id=f"{deployment.group}-dead-letters-{source}",
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            compression_type="zstd",
        )
        with _translated(source):
            await producer.start()
            try:
                return await _Run(log, deployment, producer, failpoint).over(chosen, progress)
            finally:
                await producer.stop()


class _Run:
    """One replay of one source topic; without a producer it only counts."""

    def __init__(
        self, log: LetterLog, deployment: Deployment, producer: AIOKafkaProducer | None, failpoint: Failpoint
    ) -> None:
        self._log, self._deployment, self._producer, self._failpoint = log, deployment, producer, failpoint
        self._outcome = Outcome(log.source)
        self._chunk: list[tuple[Entry, DeadLetter]] = []
        self._chunk_bytes = 0

    async def over(self, chosen: Callable[[Entry], bool], progress: Callable[[int, int], None]) -> Outcome:
        """Go through the chosen letters. Call when the producer has started: from then on nobody else marks letters."""
        outcome = self._outcome
        entries = await self._log.entries(settled=self._producer is not None)
        todo: dict[int, Entry] = {}
        for entry in filter(chosen, entries.values()):
            if entry.replayed_as:
                outcome.replayed_before += 1
            elif entry.reason == UNREADABLE:
                outcome.unreplayable[UNREADABLE] += 1
            else:
                todo[entry.offset] = entry
        done = 0
        async for offset, letter in self._log.letters(todo):
            self._take(todo[offset], letter)
            done += 1
            if len(self._chunk) >= _CHUNK_LETTERS or self._chunk_bytes >= _CHUNK_BYTES:
                await self._send()
                progress(done, len(todo))
        await self._send()
        progress(len(todo), len(todo))
        return outcome

    def _take(self, entry: Entry, letter: DeadLetter) -> None:
        if why := unreplayable(letter, entry.source, self._deployment):
            self._outcome.unreplayable[why] += 1
            return
        if error := refusal(letter, entry.source, self._deployment, int(time.time() * 1000)):
            self._outcome.refused_again[error.reason] += 1
        self._chunk.append((entry, letter))
        self._chunk_bytes += len(letter["value"] or b"")

    async def _send(self) -> None:
        """One transaction: the records to their source, the letters marked with where they went."""
        chunk, self._chunk, self._chunk_bytes = self._chunk, [], 0
        if self._producer is not None and chunk:
            async with self._producer.transaction():
                sent = [await self._record(self._producer, *each) for each in chunk]
                placed = [await each for each in sent]
                self._failpoint.reach("sent")
                marks = [
                    await self._mark(self._producer, entry, letter, f"{at.topic}-{at.partition}-{at.offset}")
                    for (entry, letter), at in zip(chunk, placed, strict=True)
                ]
                for each in marks:
                    await each
            self._failpoint.reach("committed")
        self._outcome.sent += len(chunk)

    async def _record(self, producer: AIOKafkaProducer, entry: Entry, letter: DeadLetter) -> Any:
        partition = _partition(letter, entry.source, self._deployment)
        headers = [(PROVENANCE_HEADER, entry.coordinates.encode())]
        return await producer.send(letter["topic"], letter["value"], letter["key"], partition, headers=headers)

    async def _mark(self, producer: AIOKafkaProducer, entry: Entry, letter: DeadLetter, replayed_as: str) -> Any:
        topic, value = self._deployment.dead_letters(entry.source), codec("dead_letter").encode(letter)
        headers = [(REPLAYED_HEADER, replayed_as.encode())]
        return await producer.send(topic, value, entry.coordinates.encode(), 0, headers=headers)


def _partition(letter: DeadLetter, source: str, deployment: Deployment) -> int:
    if TOPICS[source].partitions == 1:
        return 0
    if TOPICS[source].partitioned_by:
        return letter["partition"]
    assert letter["key"] is not None, "letters without a key are not chosen"
    return partition_of(entity_id(letter["key"]), deployment.partitions)


@contextmanager
def _translated(source: str) -> Iterator[None]:
    try:
        yield
    except ProducerFenced as error:
        raise Unavailable(
            f"another `aif dead-letters replay` of {source} took over; let it finish, then run this again for the rest"
        ) from error
    except KafkaError as error:
        raise Unavailable(f"replaying {source}: {type(error).__name__}: {error}; run it again for the rest") from error
