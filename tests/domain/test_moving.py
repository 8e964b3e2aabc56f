"""Blocks that left a head, into chunks; that the chunks of a log are right is tested in test_sequence.py."""

from __future__ import annotations

import pytest

from domain.moving import chunks_after, open_chunk
from domain.sequence import BLOCK, CHUNK, KEPT_CHUNKS
from schemas.errors import Corrupt

BLOCKS = [bytes([number]) * 5 * BLOCK for number in range(20)]


def test_blocks_fill_the_open_chunk_and_then_new_ones() -> None:
    """Chunks are the blocks of the log in order, 256 behaviours each, however many blocks come at once."""
    once = chunks_after(0, BLOCKS, b"")
    assert once == {0: b"".join(BLOCKS[:8]), 1: b"".join(BLOCKS[8:16]), 2: b"".join(BLOCKS[16:])}
    chunks: dict[int, bytes | None] = {}
    counted = BLOCK
    for block in BLOCKS:
        number = open_chunk(counted)
        chunks |= chunks_after(counted, [block], b"" if number is None else chunks[number] or b"")
        counted += BLOCK
    assert chunks == once


def test_the_chunk_beyond_the_sequence_goes_when_a_new_one_begins() -> None:
    """A new chunk takes the place of the one that lies 41 chunks behind it, once."""
    begins = KEPT_CHUNKS * CHUNK + BLOCK
    assert open_chunk(begins) is None
    assert chunks_after(begins, BLOCKS[:1], b"") == {0: None, KEPT_CHUNKS: BLOCKS[0]}
    assert chunks_after(begins + BLOCK, BLOCKS[1:2], BLOCKS[0]) == {KEPT_CHUNKS: BLOCKS[0] + BLOCKS[1]}


def test_a_head_is_never_joined_with_an_open_chunk_that_is_not_its_own() -> None:
    """A chunk that is missing, or longer than the head says, is Corrupt."""
    for held in (b"", BLOCKS[0] + BLOCKS[1]):
        with pytest.raises(Corrupt, match="open chunk"):
            chunks_after(2 * BLOCK, BLOCKS[:1], held)
