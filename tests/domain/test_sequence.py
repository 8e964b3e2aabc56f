"""The sequence behind a head: the last of the log, whatever its length and however it came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.sequence import (
    BEHAVIOUR_DTYPE,
    CHUNK,
    INDEX_DTYPE,
    SEQUENCE,
    behaviours_in,
    by_time,
    held_chunks,
    moved_of,
    unpacked_behaviours,
)
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.errors import Corrupt

T0 = 1_700_000_000_000
any_int64 = st.integers(-(2**63), 2**63 - 1)


def _log(length: int) -> np.ndarray:
    random = np.random.default_rng(length)
    log = np.zeros(length, dtype=BEHAVIOUR_DTYPE)
    log["item_id"] = np.arange(length)
    log["event_time_ms"] = T0 + np.arange(length) * 1000 - random.integers(0, 3, length) * 5_000
    log["has_category"] = random.random(length) < 0.9
    log["category_id"] = np.where(log["has_category"], random.integers(0, 12, length), 0)
    log["value"] = np.where(random.random(length) < 0.5, random.integers(0, 99, length) / 4, np.nan)
    log["action"] = random.integers(0, 14, length)
    return log


def _held(log: np.ndarray, step: int) -> tuple[Any, dict[int, bytes], dict[int, int]]:
    """Head, chunks and how often each was written, after a user's log came in steps."""
    heads: dict[int, bytes] = {}
    chunks: dict[int, bytes] = {}
    written: dict[int, int] = {}
    for start in range(0, len(log), step):
        part = log[start : start + step]
        place = start + np.arange(len(part))
        columns = {name: part[name] for name in BEHAVIOUR_DTYPE.names or ()}
        batch = EventBatch(offset=place, event_id=place, user_id=0 * place, **columns)
        folded = fold(heads, batch, 1, read_chunks=lambda wanted: {place: chunks[place[1]] for place in wanted})
        heads |= folded.heads
        for (_, number), chunk in folded.chunks.items():
            written[number] = written.get(number, 0) + 1
            if chunk is None:
                chunks.pop(number, None)
            else:
                chunks[number] = chunk
    return codec("user_head").decode(heads[0]), chunks, written


@pytest.mark.parametrize("length", [1, 32, 63, 64, 319, 320, 321, 5_000, 10_300, 11_000, 23_457])
@pytest.mark.parametrize("step", [13, 700])
def test_the_sequence_is_the_last_ten_thousand_sorted_by_time(length, step) -> None:
    """Head and chunks together are the last 10,000 behaviours of the log, sorted by event time, ties in log order."""
    log = _log(length)
    head, chunks, _ = _held(log, step)
    last = log[-SEQUENCE:]
    expected = last[np.argsort(last["event_time_ms"], kind="stable")]
    assert by_time(head["behaviours"], head["counted"], chunks).tobytes() == expected.tobytes()
    assert head["counted"] == length
    assert list(held_chunks(length)) == sorted(chunks)
    assert len(chunks) * CHUNK <= SEQUENCE + 2 * CHUNK
    assert min(length, 32) <= behaviours_in(head["behaviours"]) == length - moved_of(length) < 64


def test_a_sealed_chunk_is_never_written_again() -> None:
    """A chunk is written eight times while it fills and never again; when it goes, that is one more."""
    *_, written = _held(_log(12_000), 10)
    assert set(written.values()) <= {8, 9} | {count for number, count in written.items() if number == max(written)}


def test_missing_and_short_chunks_are_corrupt() -> None:
    """A head is never read together with chunks that are not its own."""
    head, chunks, _ = _held(_log(1_000), 100)
    for other in ({**chunks, 1: b""}, {**chunks, 1: chunks[1][:-5]}):
        with pytest.raises(Corrupt):
            by_time(head["behaviours"], 1_000, other)


@given(
    st.lists(
        st.tuples(
            any_int64, st.integers(-(2**52), 2**52), st.none() | any_int64,
            st.none() | st.floats(allow_nan=False), st.integers(0, 13),
        ),
        min_size=1, max_size=70,
    )
)  # fmt: skip
def test_any_behaviour_is_read_as_it_was_written(drawn) -> None:
    """Ids of either sign and any size, leaps of ages, zero, minus zero and infinities come back bit for bit."""
    items, times, categories, values, actions = zip(*drawn, strict=True)
    place = np.arange(len(drawn))
    batch = EventBatch(
        place, place, 0 * place, np.array(items), np.sort(np.array(times)), np.array(actions, dtype="u1"),
        np.array([each or 0 for each in categories]), np.array([each is not None for each in categories]),
        np.array([np.nan if each is None else each for each in values]),
    )  # fmt: skip
    folded = fold({}, batch, 1, idle_ms=2**60)
    head: Any = codec("user_head").decode(folded.heads[0])
    found = unpacked_behaviours(folded.chunks.get((0, 0), b"") + head["behaviours"])
    for name in BEHAVIOUR_DTYPE.names or ():
        assert found[name].tobytes() == getattr(batch, name).tobytes(), name


@pytest.mark.parametrize("packed", [b"\x00", b"\x00\x00\x00\x00\x80", b"\x80"])
def test_bytes_that_are_no_behaviours_are_corrupt(packed) -> None:
    """Half a behaviour is never read as a whole one."""
    with pytest.raises(Corrupt, match="whole number"):
        unpacked_behaviours(packed)


def test_the_index_is_bounded_and_holds_the_last_of_the_heaviest_categories() -> None:
    """Eight categories of four behaviours at most; a category that came often recently stays, a rare old one goes."""
    log = _log(4_000)
    log["has_category"], log["category_id"] = True, np.random.default_rng(1).integers(0, 12, 4_000)
    log["category_id"][3_000:] = np.arange(1_000) % 3
    head, *_ = _held(log, 500)
    rows = np.frombuffer(head["category_index"], dtype=INDEX_DTYPE)
    gone = log[: moved_of(4_000)]
    assert len(head["category_index"]) <= 8 * INDEX_DTYPE.itemsize == 704
    for category in range(3):
        row = rows[rows["category_id"] == category][0]
        of_category = gone[gone["category_id"] == category][-4:]
        assert row["used"] == 4
        for name in ("item_id", "event_time_ms", "action"):
            assert row[name].tolist() == of_category[name].tolist()
