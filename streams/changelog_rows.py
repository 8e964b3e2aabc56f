"""Rows of a table partition, folded from its changelog: at a watermark, or at an offset.

Compaction may take a row as soon as a newer one of its key is written. So a reading that lacks a row proves nothing
where the key has a record behind the point in question: `later` says which keys do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from schemas.codec import codec
from schemas.ids import WATERMARK_KEY
from schemas.records import Watermark

__all__ = ["ChangelogRecord", "RowsAtCut", "RowsAtOffset"]


class ChangelogRecord(Protocol):
    """The parts of a Kafka record that matter here."""

    offset: int
    key: bytes
    value: bytes | None


class RowsAtCut:
    """Rows at the newest watermark, or with `cut` at the newest one that reflects offset `cut` of source `topic_id`.

    Watermarks of another topic id are of a source that was deleted and made again since: their offsets do not compare.
    """

    def __init__(self, cut: int | None = None, topic_id: int | None = None) -> None:
        self._cut, self._topic_id = cut, topic_id
        self.rows: dict[bytes, bytes] = {}
        self.mark: Watermark | None = None
        #: Offset behind the watermark that `rows` are of.
        self.next_offset = 0
        #: Source offset of the first watermark beyond the cut; None where there was none yet.
        self.beyond: int | None = None
        self._since: dict[bytes, bytes | None] = {}

    def take(self, record: ChangelogRecord) -> bool:
        """Take the next record; whether more are wanted."""
        if record.key != WATERMARK_KEY:
            self._since[record.key] = record.value
            return True
        found: Any = codec("watermark").decode(record.value)
        comparable = self._topic_id in (None, found["source_topic_id"])
        if self._cut is not None and comparable and found["next_source_offset"] > self._cut:
            self.beyond = found["next_source_offset"]
            return False
        self.mark, self.next_offset = found, record.offset + 1
        _apply(self._since, self.rows)
        self._since.clear()
        return True

    @property
    def at_cut(self) -> bool:
        """Whether the rows are those of the cut."""
        if self.mark is None or self._cut is None:
            return self.mark is not None
        same_topic = self._topic_id in (None, self.mark["source_topic_id"])
        return same_topic and self.mark["next_source_offset"] == self._cut


class RowsAtOffset:
    """Rows after the record at an offset, the watermark's included, and keys that have later records."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self.rows: dict[bytes, bytes | None] = {}
        self.later: set[bytes] = set()
        #: Rows of the copy that `differences` went through.
        self.compared = 0

    def take(self, record: ChangelogRecord) -> None:
        """Take the next record."""
        if record.offset <= self._offset:
            self.rows[record.key] = record.value
        else:
            self.later.add(record.key)

    def differences(self, stored: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, str]]:
        """Keys of a copy that are not as the changelog has them, and how."""
        seen = set()
        for key, value in stored:
            seen.add(key)
            self.compared += 1
            expected = self.rows.get(key)
            if value == expected or key in self.later:
                continue
            if expected is None:
                yield key, "the changelog has no such row" if key not in self.rows else "deleted in the changelog"
            else:
                yield key, f"another value than in the changelog ({len(value)} bytes, expected {len(expected)})"
        for key, expected in self.rows.items():
            if expected is not None and key not in seen and key not in self.later:
                yield key, "missing"


def _apply(changes: dict[bytes, bytes | None], rows: dict[bytes, bytes]) -> None:
    for key, value in changes.items():
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
