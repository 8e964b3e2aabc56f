"""Decisions on fetched batches."""

from hypothesis import given
from hypothesis import strategies as st

from streams.cursor import Decision, SourceCursor


@given(st.data())
def test_every_record_is_applied_once_and_in_order_whatever_is_lost(data: st.DataObject) -> None:
    """Whatever fetched batches vanish, the cursor takes each offset exactly once, in order."""
    end_of_log = data.draw(st.integers(1, 60))
    cursor = SourceCursor(0)
    position, fetch, applied = 0, 0, []
    in_flight: list[tuple[int, int, int]] = []
    for _ in range(600):
        if cursor.expected == end_of_log:
            break
        if position < end_of_log and data.draw(st.booleans()):
            fetch += 1
            end = min(end_of_log, position + data.draw(st.integers(1, 7)))
            if data.draw(st.integers(0, 3)):  # else: lost on the way
                in_flight.append((position, end, fetch))
            position = end
        elif in_flight:
            begin, end, number = in_flight.pop(0)
            decision = cursor.decide(begin, end, number)
            if decision is Decision.TAKE:
                applied += range(max(begin, cursor.expected), end)
                cursor.advance(end)
            elif decision is Decision.SEEK:
                position = cursor.expected
                cursor.sought(fetch)
        else:  # nothing on its way and nothing to fetch: the watchdog's case
            position = cursor.expected
            cursor.sought(fetch)
    assert applied == list(range(len(applied)))
    assert len(applied) == cursor.expected


def test_gap_inside_a_fetch_is_the_logs_own() -> None:
    """A fetch that begins at the expected offset is taken whole, although compaction left holes in it."""
    cursor = SourceCursor(10)
    assert cursor.decide(10, 50, fetch=1) is Decision.TAKE
    cursor.advance(50)
    assert cursor.expected == 50


def test_batch_behind_a_hole_makes_one_seek_not_many() -> None:
    """Batches that were on their way before a seek are skipped, not answered with another seek."""
    cursor = SourceCursor(10)
    assert cursor.decide(20, 30, fetch=3) is Decision.SEEK
    cursor.sought(fetch=5)
    assert cursor.decide(30, 40, fetch=4) is Decision.SKIP
    assert cursor.decide(30, 40, fetch=6) is Decision.SEEK, "fetched after the seek, so the batch before it is lost"
    assert cursor.decide(10, 20, fetch=6) is Decision.TAKE


def test_overlap_is_cut_off() -> None:
    """A batch that begins before the expected offset and ends behind it is taken; one that ends there is skipped."""
    cursor = SourceCursor(10)
    assert cursor.decide(0, 10, fetch=1) is Decision.SKIP
    assert cursor.decide(5, 12, fetch=2) is Decision.TAKE
