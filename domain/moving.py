"""Blocks of behaviours that left a head, into chunks; sequence.py says what chunks are."""

from __future__ import annotations

from collections.abc import Sequence

from domain.sequence import BLOCK, CHUNK, KEPT_CHUNKS, behaviours_in, moved_of
from schemas.errors import Corrupt

__all__ = ["chunks_after", "open_chunk"]


def open_chunk(counted: int) -> int | None:
    """The chunk that the next block of a user joins, who has so many behaviours; None where it begins one."""
    moved = moved_of(counted)
    return moved // CHUNK if moved % CHUNK else None


def chunks_after(counted: int, blocks: Sequence[bytes], held: bytes) -> dict[int, bytes | None]:
    """Chunks that change when blocks leave the head of a user who had so many behaviours: None where one goes.

    `held` is the open chunk, empty where there is none. Raises Corrupt where it is not as long as `counted` says.
    """
    moved = moved_of(counted)
    if (found := behaviours_in(held)) != moved % CHUNK:
        raise Corrupt(
            f"the open chunk of a user has {found} behaviours, expected {moved % CHUNK}: head and chunks of table "
            "users do not belong together; rebuild the table from its log"
        )
    chunks: dict[int, bytes | None] = {}
    for block in blocks:
        number = moved // CHUNK
        if moved % CHUNK == 0:
            held = b""
            if number >= KEPT_CHUNKS:
                chunks[number - KEPT_CHUNKS] = None
        held += block
        chunks[number] = held
        moved += BLOCK
    return chunks
