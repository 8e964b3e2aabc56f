"""What a lane asks of the code that knows its records: rows in, rows out, no broker and no loop.

A fold runs in an executor thread, beside heartbeats. It reads the tables of its partition and returns everything that
the batch changes; the lane commits that and the source offset together. It must be a function of the log and the
tables alone, because after a crash it sees the same records again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from streams.store import Row

__all__ = ["REBUILD_START", "Fold", "Outgoing", "Piece", "RebuildPlace", "SourceRecord", "TableReader", "Writes"]


class SourceRecord(Protocol):
    """The parts of a Kafka record that folds use."""

    offset: int
    #: LogAppendTime, Unix milliseconds.
    timestamp: int
    key: bytes | None
    value: bytes | None


class TableReader(Protocol):
    """The tables of one partition, as of the last committed batch."""

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of some keys, None where there is no row."""

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """Up to `limit` entity keys behind `after`, in order; b"" starts at the first."""

    def entity_rows(
        self, table: str, after: bytes, limit: int, until: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """`entity_keys` with their values, up to key `until` where it is given."""


class Outgoing(NamedTuple):
    """A record for another topic of the deployment (its name without the prefix); None deletes its key's."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None


@dataclass(frozen=True)
class Writes:
    """What a batch changes.

    `rows` by table: one per key. `dead_letters` are (coordinates, encoded DeadLetter). `max_event_time_ms` is the
    newest valid event time of the batch, None where it had none. `counts` are for metrics. `outgoing` goes to other
    source topics, in the same transaction.
    """

    rows: Mapping[str, list[Row]]
    dead_letters: list[Row] = field(default_factory=list)
    max_event_time_ms: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)


#: Where a rebuild goes on, as its fold knows: REBUILD_START at first, then what the piece before it said. Kept by the
#: owner of the partition and lost with it: another owner may have written since.
RebuildPlace = Any
REBUILD_START: Final[RebuildPlace] = ("", b"")


@dataclass(frozen=True)
class Piece:
    """A piece of a rebuild: what it changes (None: nothing), where to go on, and whether that is worthwhile now.

    `looked` is the number of rows that it was about, which its time depends on.
    """

    writes: Writes | None
    at: RebuildPlace
    more: bool
    looked: int = 0


class Fold(Protocol):
    """One lane's logic."""

    @property
    def source(self) -> str:
        """Name of the source topic, without the deployment's prefix."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that it writes."""

    def fold(self, partition: int, topic_id: int, records: Sequence[Any], tables: TableReader) -> Writes:
        """The changes that a batch of source records makes."""

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace, limit: int) -> Piece:
        """The next piece of work that no source record asked for, over at most `limit` rows of the first table."""
