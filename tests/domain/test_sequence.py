"""The sequence behind a head: the last of the log, whatever its length."""

from __future__ import annotations

import numpy as np
import pytest

from domain.moving import move
from domain.sequence import BEHAVIOUR_DTYPE, CHUNK, SEQUENCE, by_time, held_chunks
from schemas.errors import Corrupt

T0 = 1_700_000_000_000


def _log(length: int) -> np.ndarray:
    random = np.random.default_rng(length)
    log = np.zeros(length, dtype=BEHAVIOUR_DTYPE)
    log["item_id"] = np.arange(length)
    log["event_time_ms"] = T0 + np.arange(length) * 1000 - random.integers(0, 3, length) * 5_000
    log["category_id"] = random.integers(0, 12, length)
    log["has_category"] = random.random(length) < 0.9
    log["value"] = np.nan
    return log


def _held(log: np.ndarray, step: int) -> tuple[bytes, int, bytes, dict[int, bytes], dict[int, int]]:
    """Head bytes, moved, index, chunks and how often each was written, after the log came in steps."""
    behaviours, moved, index, chunks = b"", 0, b"", {}
    written: dict[int, int] = {}
    for start in range(0, len(log), step):
        behaviours += log[start : start + step].tobytes()
        open_chunk = chunks.get(moved // CHUNK, b"") if moved % CHUNK else b""
        done = move(behaviours, moved, index, open_chunk)
        behaviours, moved, index = done.behaviours, done.moved, done.category_index
        for number, chunk in done.chunks.items():
            written[number] = written.get(number, 0) + 1
            if chunk is None:
                del chunks[number]
            else:
                chunks[number] = chunk
    return behaviours, moved, index, chunks, written


@pytest.mark.parametrize("length", [0, 1, 63, 64, 319, 320, 321, 5_000, 10_300, 11_000, 23_457])
@pytest.mark.parametrize("step", [1, 700])
def test_the_sequence_is_the_last_ten_thousand_sorted_by_time(length, step) -> None:
    """Head and chunks together are the last 10,000 behaviours of the log, sorted by event time, ties in log order."""
    log = _log(length)
    behaviours, moved, _, chunks, _ = _held(log, step)
    last = log[-SEQUENCE:]
    expected = last[np.argsort(last["event_time_ms"], kind="stable")]
    assert by_time(behaviours, moved, chunks).tobytes() == expected.tobytes()
    assert list(held_chunks(moved)) == sorted(chunks)
    assert len(chunks) * CHUNK <= SEQUENCE + 2 * CHUNK
    assert len(behaviours) < 64 * BEHAVIOUR_DTYPE.itemsize


def test_a_sealed_chunk_is_never_written_again() -> None:
    """A chunk is written eight times while it fills and never again; when it goes, that is one more."""
    *_, written = _held(_log(12_000), 1)
    assert set(written.values()) <= {8, 9} | {count for number, count in written.items() if number == max(written)}


def test_missing_and_short_chunks_are_corrupt() -> None:
    """A head is never joined with chunks that are not its own."""
    behaviours, moved, index, chunks, _ = _held(_log(1_000), 1)
    with pytest.raises(Corrupt, match="open chunk"):
        move(behaviours, moved, index, b"")
    with pytest.raises(Corrupt, match="chunk 1"):
        by_time(behaviours, moved, {**chunks, 1: b""})
