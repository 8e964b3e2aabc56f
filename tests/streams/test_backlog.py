"""The backlog of a partition: what is taken is contiguous, bounded and nothing that was applied."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from streams.backlog import Backlog
from streams.batching import FetchedBatch
from streams.cursor import SourceCursor


def fetched(begin: int, end: int, fetch: int = 1, size: int = 10) -> FetchedBatch:
    """A batch of one record per offset."""
    records = [SimpleNamespace(offset=offset, key=b"", value=bytes(size)) for offset in range(begin, end)]
    return FetchedBatch("t", 0, begin, end, fetch, records)


def backlog_of(*batches: FetchedBatch) -> Backlog:
    """A backlog with these in hand."""
    backlog = Backlog()
    for batch in batches:
        backlog.add(batch)
    return backlog


def test_contiguous_batches_are_joined_up_to_the_bound() -> None:
    """Batches are taken whole until the bound is reached; the rest waits."""
    backlog = backlog_of(fetched(0, 3), fetched(3, 6), fetched(6, 9))
    first = backlog.take(SourceCursor(0), most=4)
    assert [record.offset for record in first.records] == [0, 1, 2, 3, 4, 5]
    assert (first.end, first.lost, len(backlog)) == (6, False, 1)
    assert backlog.take(SourceCursor(6), most=4).end == 9


def test_applied_records_are_cut_off() -> None:
    """Of a batch that begins before the cursor only what follows it is taken."""
    taken = backlog_of(fetched(0, 3), fetched(2, 6)).take(SourceCursor(4), most=10)
    assert [record.offset for record in taken.records] == [4, 5] and taken.end == 6


def test_a_hole_ends_what_is_taken_and_drops_the_rest() -> None:
    """Records before a hole are taken; what is behind it is dropped, to be fetched again."""
    backlog = backlog_of(fetched(0, 3), fetched(5, 6), fetched(6, 9))
    taken = backlog.take(SourceCursor(0), most=100)
    assert ([record.offset for record in taken.records], taken.end, taken.lost) == ([0, 1, 2], 3, True)
    assert len(backlog) == 0 and backlog.low


def test_a_range_without_records_moves_the_end() -> None:
    """Where a fetch consumed only gaps the end moves on without records."""
    taken = backlog_of(FetchedBatch("t", 0, 4, 8, 1, [])).take(SourceCursor(4), most=10)
    assert (taken.records, taken.end, taken.lost) == ([], 8, False)


def test_bytes_in_hand_say_when_to_hold_back() -> None:
    """Above eight mebibytes a backlog is full, and it is low again once that is taken."""
    backlog = backlog_of(*(fetched(at, at + 1, size=1 << 20) for at in range(9)))
    assert backlog.full and not backlog.low
    backlog.take(SourceCursor(0), most=8)
    assert not backlog.full and backlog.low


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6), st.integers(0, 3)), max_size=12), st.integers(0, 20))
def test_what_is_taken_is_the_next_of_the_log(ranges: list[tuple[int, int, int]], expected: int) -> None:
    """Whatever batches are in hand, the records taken are exactly the offsets from the cursor to the end."""
    backlog = backlog_of(*(fetched(begin, begin + length, fetch) for begin, length, fetch in ranges))
    taken = backlog.take(SourceCursor(expected, last_seek=1), most=1000)
    assert [record.offset for record in taken.records] == list(range(expected, taken.end))
    assert len(backlog) == 0
