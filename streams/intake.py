"""From source records to valid records and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from schemas.codec import Codec, codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.records import DeadLetter
from streams.fold import SourceRecord
from streams.store import Row

__all__ = ["Check", "dead_letter", "intake"]

#: Raises BadRecord: (record, key, LogAppendTime, deployment).
Check = Callable[[Any, bytes | None, int, Deployment], None]


def intake(
    records: Sequence[SourceRecord], topic: str, partition: int, reader: Codec, check: Check, deployment: Deployment
) -> tuple[list[tuple[SourceRecord, Any]], list[Row]]:
    """The valid records with their source records, in order, and a dead letter for each of the others."""
    valid: list[tuple[SourceRecord, Any]] = []
    letters: list[Row] = []
    for source in records:
        try:
            record = reader.decode(source.value)
            check(record, source.key, source.timestamp, deployment)
        except BadRecord as error:
            letters.append(dead_letter(source, topic, partition, error))
        else:
            valid.append((source, record))
    return valid, letters


def dead_letter(source: SourceRecord, topic: str, partition: int, error: BadRecord) -> Row:
    """Key (the record's coordinates) and value of a dead letter; the same record always has the same key."""
    letter = DeadLetter(
        reason=error.reason,
        detail=error.detail,
        topic=topic,
        partition=partition,
        offset=source.offset,
        append_time_ms=source.timestamp,
        key=source.key,
        value=source.value,
    )
    return f"{topic}-{partition}-{source.offset}".encode(), codec("dead_letter").encode(letter)
