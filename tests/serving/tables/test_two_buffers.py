"""Bytes in mapped memory that are replaced whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.tables.two_buffers import TwoBuffers

WORDS = 8


def memory() -> np.ndarray:
    """The word that says which buffer counts, and two buffers."""
    return np.zeros(1 + 2 * WORDS, dtype=np.int64)


def over(words: np.ndarray) -> TwoBuffers:
    """As another process would map the same words."""
    return TwoBuffers(words[:1], words[1:].reshape(2, WORDS))


@given(st.lists(st.binary(min_size=1, max_size=8 * WORDS - 16), min_size=1, max_size=6))
def test_a_reader_finds_what_was_written_last(texts) -> None:
    """Shorter after longer too, of any length up to the most."""
    words = memory()
    assert over(words).read() == b""
    assert over(words).most_bytes == 8 * WORDS - 16
    for text in texts:
        over(words).write(text)
        assert over(words).read() == text


@given(st.binary(min_size=1, max_size=48), st.binary(min_size=1, max_size=48), st.integers(0, 60))
def test_a_writer_killed_anywhere_leaves_what_was_there(before, after, stores) -> None:
    """After any part of a write, byte by byte, a reader finds the old bytes or the new ones."""
    words = memory()
    over(words).write(before)
    written = words.copy()
    over(written).write(after)
    changed = np.flatnonzero(words.view(np.uint8) != written.view(np.uint8))
    # The turn is stored last; what comes before it may have come in any part.
    in_order = [*(at for at in changed if at >= 8), *(at for at in changed if at < 8)]
    for at in in_order[:stores]:
        words.view(np.uint8)[at] = written.view(np.uint8)[at]
    assert over(words).read() == (after if stores >= len(in_order) else before)


def test_a_reader_refuses_what_changed_under_it() -> None:
    """Bytes whose checksum is wrong, as those of a writer that overtook the reader, are no answer."""
    words = memory()
    over(words).write(b"whole")
    words[1 + WORDS + 2] += 1
    assert over(words).read() == b""
