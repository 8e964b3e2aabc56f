"""The fold that is measured against the rivals counts what it is given, however the batches fall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plain_fold import ROW_BYTES, TABLE, PlainFold, counted


@dataclass
class Record:
    """The parts of a source record that the fold reads."""

    offset: int
    key: bytes | None
    value: bytes | None = b""
    timestamp: int = 0


class Table(dict[bytes, bytes]):
    """A table of one partition."""

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See streams/fold.py."""
        assert table == TABLE
        return [self.get(key) for key in keys]

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """See streams/fold.py."""
        return []

    def entity_rows(
        self, table: str, after: bytes, limit: int, until: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """See streams/fold.py."""
        return []


@pytest.mark.parametrize("coalesce", [True, False])
@given(
    keys=st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    again=st.integers(0, 10),
)
def test_counts_equal_the_log(coalesce: bool, keys: list[bytes], cuts: list[int], again: int) -> None:
    """Rows hold each key's number of records and last offset, for any batches and any part of the log read again."""
    records = [Record(offset, key) for offset, key in enumerate(keys)]
    table, fold = Table(), PlainFold(coalesce)
    edges = [0, *sorted(min(cut, len(keys)) for cut in cuts), len(keys)]
    for start, stop in pairwise(edges):
        writes = fold.fold(0, 1, records[max(0, start - again) : stop], table)
        table.update(dict(writes.rows[TABLE]))
    assert {key: counted(row)[0] for key, row in table.items()} == Counter(keys)
    last = {key: offset for offset, key in enumerate(keys)}
    assert {key: counted(row)[1] for key, row in table.items()} == last
    assert all(len(row) == ROW_BYTES for row in table.values())


def test_rows_per_record_when_asked() -> None:
    """Without coalescing a batch makes one row per record, with it one per key."""
    records = [Record(0, b"a"), Record(1, b"a"), Record(2, b"b")]
    assert len(PlainFold(coalesce=False).fold(0, 1, records, Table()).rows[TABLE]) == 3
    assert len(PlainFold().fold(0, 1, records, Table()).rows[TABLE]) == 2
