"""A user's behaviours in log order: the newest in the head row, the older ones in chunks of 256 behind it.

Behaviours lie in *blocks* of 32. A head holds the newest block, which grows, and the full one before it: 32 to 63
behaviours (fewer where the user has fewer), the newest 32 always among them. When a block is full, the one before it
moves into the *open* chunk, so that a chunk is written once in 32 events, eight times until it is full; full, it is
*sealed* and never written again. Chunk n holds behaviours 256 n to 256 n + 255 of the log; the chunk that lies
`KEPT_CHUNKS` behind a new one goes, so that the last 10,000 behaviours are always there.

A packed behaviour is five varints (packed.py), each zigzag where it may be negative: action code << 2 | has value << 1
| has category; item; event time in ms, in a block's first behaviour as it is and then as the difference to the one
before; category; the bytes of the float64 value in reverse, so that round numbers are short. About ten bytes of a news
click. To add one, none of the others is touched.

Behaviours that move also enter the head's *category index*, for hard search by category beyond the head: of at most
eight categories the last four behaviours each. A category's weight is its decayed count of moved behaviours, by event
time with a half life of a week; when a ninth comes, the lightest goes and leaves it its weight (Space-Saving), so that
every category of more than an eighth of the weight is there. At most 704 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.errors import Corrupt

__all__ = [
    "BEHAVIOURS",
    "BEHAVIOUR_DTYPE",
    "BEHAVIOUR_VARINTS",
    "BLOCK",
    "CHUNK",
    "INDEXED_CATEGORIES",
    "INDEXED_EACH",
    "INDEX_DTYPE",
    "KEPT_CHUNKS",
    "SEQUENCE",
    "behaviours_in",
    "by_time",
    "held_chunks",
    "moved_of",
    "newest_first",
    "unpacked_behaviours",
]

#: Newest behaviours that a head always holds.
BEHAVIOURS: Final = 32
#: Behaviours that move together.
BLOCK: Final = BEHAVIOURS
#: Behaviours of a sealed chunk.
CHUNK: Final = 256
#: Behaviours of a user that can be read.
SEQUENCE: Final = 10_000

#: A behaviour as it is read; `category_id` is meaningful with `has_category`, `action` is a code, `value` NaN if none.
BEHAVIOUR_DTYPE: Final = np.dtype(
    [("item_id", "<i8"), ("event_time_ms", "<i8"), ("category_id", "<i8"), ("value", "<f8"),
     ("has_category", "?"), ("action", "u1")]
)  # fmt: skip
#: Varints of a packed behaviour.
BEHAVIOUR_VARINTS: Final = 5

INDEXED_CATEGORIES: Final = 8
INDEXED_EACH: Final = 4

#: One category of the index: log2 of its weight, and its last behaviours, oldest first, `used` of them.
INDEX_DTYPE: Final = np.dtype(
    [("category_id", "<i8"), ("weight", "<f8"), ("used", "u1"), ("action", "u1", INDEXED_EACH), ("", "u1", 3),
     ("item_id", "<i8", INDEXED_EACH), ("event_time_ms", "<i8", INDEXED_EACH)]
)  # fmt: skip

#: Full chunks and the open one that together always reach back `SEQUENCE` behaviours.
KEPT_CHUNKS: Final = -(-SEQUENCE // CHUNK) + 1


def moved_of(counted: int) -> int:
    """How many of a user's behaviours lie in chunks, or have gone with them, when so many were ever counted."""
    return max(0, counted // BLOCK - 1) * BLOCK


def held_chunks(counted: int) -> range:
    """Numbers of the chunks that exist when so many behaviours were ever counted."""
    end = -(-moved_of(counted) // CHUNK)
    return range(max(0, end - KEPT_CHUNKS), end)


def behaviours_in(packed: bytes) -> int:
    """How many whole behaviours there are in packed ones."""
    return int(np.count_nonzero(np.frombuffer(packed, dtype=np.uint8) < 128)) // BEHAVIOUR_VARINTS


def unpacked_behaviours(packed: bytes) -> npt.NDArray[Any]:
    """Packed behaviours that begin with a block ([n] BEHAVIOUR_DTYPE). Raises Corrupt where they are not whole."""
    raw = np.frombuffer(packed, dtype=np.uint8)
    ends = np.flatnonzero(raw < 128) + 1
    count, odd = divmod(len(ends), BEHAVIOUR_VARINTS)
    if odd or (len(ends) and ends[-1] != len(raw)) or (len(raw) and not len(ends)):
        raise Corrupt(f"{len(raw)} bytes are no whole number of behaviours: rebuild table users from its log")
    told = np.zeros(count, dtype=BEHAVIOUR_DTYPE)
    if not count:
        return told
    starts = np.concatenate([[0], ends[:-1]])
    shift = 7 * (np.arange(len(raw)) - np.repeat(starts, ends - starts)).astype(np.uint64)
    varints = np.bitwise_or.reduceat((raw & 127).astype(np.uint64) << shift, starts).reshape(count, BEHAVIOUR_VARINTS)
    kind = varints[:, 0].astype(np.int64)
    longs = (varints >> np.uint64(1)).view(np.int64) ^ -(varints & np.uint64(1)).view(np.int64)
    times = np.zeros(-(-count // BLOCK) * BLOCK, dtype=np.int64)
    times[:count] = longs[:, 2]
    told["item_id"] = longs[:, 1]
    told["event_time_ms"] = times.reshape(-1, BLOCK).cumsum(axis=1).reshape(-1)[:count]
    told["category_id"] = longs[:, 3]
    told["value"] = np.where(kind & 2, varints[:, 4].byteswap().view(np.float64), np.nan)
    told["has_category"] = kind & 1
    told["action"] = kind >> 2
    return told


def by_time(behaviours: bytes, counted: int, chunks: Mapping[int, bytes]) -> npt.NDArray[Any]:
    """The last 10,000 behaviours of the log, sorted by event time, of equal times in log order ([n] BEHAVIOUR_DTYPE).

    `chunks` must have those of `held_chunks`; Corrupt where one is missing or of another length.
    """
    parts = []
    moved = moved_of(counted)
    for number in held_chunks(counted):
        told = unpacked_behaviours(chunks.get(number, b""))
        if len(told) != min(CHUNK, moved - number * CHUNK):
            raise Corrupt(f"chunk {number} of a user has {len(told)} behaviours: rebuild table users from its log")
        parts.append(told)
    last = np.concatenate([*parts, unpacked_behaviours(behaviours)])[-SEQUENCE:]
    return last[np.argsort(last["event_time_ms"], kind="stable")]


def newest_first(behaviours: bytes, counted: int, chunk: Callable[[int], bytes], count: int) -> npt.NDArray[Any]:
    """The last `count` behaviours of the log (at most 10,000), newest logged first ([<= count] BEHAVIOUR_DTYPE).

    `chunk` gives the packed behaviours of a chunk by number, and is asked for no more than are needed. Where one has
    fewer than the head says (it has not arrived yet), what is newer than it is given; more than that are the head's.
    """
    count = min(count, SEQUENCE)
    parts, moved = [unpacked_behaviours(behaviours)], moved_of(counted)
    have = len(parts[0])
    for number in reversed(held_chunks(counted)):
        if have >= count:
            break
        told, expected = unpacked_behaviours(chunk(number)), min(CHUNK, moved - number * CHUNK)
        if len(told) < expected:
            break
        parts.append(told[:expected])
        have += expected
    return np.concatenate(parts[::-1])[::-1][:count]
