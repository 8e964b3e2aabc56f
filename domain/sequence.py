"""A user's behaviours in log order: the newest in the head row, the older ones in chunks of 256 behind it.

A head holds the newest 32 behaviours, and up to 31 more that wait. At 64 the oldest 32 move into the *open* chunk: the
head grows by one behaviour an event and a chunk is written once in 32 events, eight times until it is full; full, it is
*sealed* and never written again. A head that held back 256 until a chunk could be written at once would cost five
kilobytes with every event. Chunk n holds behaviours 256 n to 256 n + 255 of those that ever moved (`moved` in the
head); the chunk that lies `KEPT_CHUNKS` behind a new one goes, so that the last 10,000 behaviours of the log are
always there.

Behaviours that move also enter the head's *category index*, for hard search by category beyond the head: of at most
eight categories the last four behaviours each. A category's weight is its decayed count of moved behaviours, by event
time with a half life of a week; when a ninth comes, the lightest goes and leaves it its weight (Space-Saving), so that
every category of more than an eighth of the weight is there. At most 704 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.errors import Corrupt

__all__ = [
    "BEHAVIOURS",
    "BEHAVIOUR_DTYPE",
    "CHUNK",
    "INDEXED_CATEGORIES",
    "INDEXED_EACH",
    "INDEX_DTYPE",
    "KEPT_CHUNKS",
    "SEQUENCE",
    "by_time",
    "held_chunks",
]

#: Newest behaviours that a head always holds.
BEHAVIOURS: Final = 32
#: Behaviours of a sealed chunk.
CHUNK: Final = 256
#: Behaviours of a user that can be read.
SEQUENCE: Final = 10_000

#: A packed behaviour; `category_id` is meaningful with `has_category`, `action` is an action code, `value` NaN if none.
BEHAVIOUR_DTYPE: Final = np.dtype(
    [("item_id", "<i8"), ("event_time_ms", "<i8"), ("category_id", "<i8"), ("value", "<f8"),
     ("has_category", "?"), ("action", "u1")]
)  # fmt: skip

INDEXED_CATEGORIES: Final = 8
INDEXED_EACH: Final = 4

#: One category of the index: log2 of its weight, and its last behaviours, oldest first, `used` of them.
INDEX_DTYPE: Final = np.dtype(
    [("category_id", "<i8"), ("weight", "<f8"), ("used", "u1"), ("action", "u1", INDEXED_EACH), ("", "u1", 3),
     ("item_id", "<i8", INDEXED_EACH), ("event_time_ms", "<i8", INDEXED_EACH)]
)  # fmt: skip

_SIZE: Final = BEHAVIOUR_DTYPE.itemsize
#: Full chunks and the open one that together always reach back `SEQUENCE` behaviours.
KEPT_CHUNKS: Final = -(-SEQUENCE // CHUNK) + 1


def held_chunks(moved: int) -> range:
    """Numbers of the chunks that exist after `moved` behaviours have moved."""
    end = -(-moved // CHUNK)
    return range(max(0, end - KEPT_CHUNKS), end)


def by_time(behaviours: bytes, moved: int, chunks: Mapping[int, bytes]) -> npt.NDArray[Any]:
    """The last 10,000 behaviours of the log, sorted by event time, of equal times in log order ([n] BEHAVIOUR_DTYPE).

    `chunks` must have those of `held_chunks`; Corrupt where one is missing or of another length.
    """
    parts = []
    for number in held_chunks(moved):
        chunk = chunks.get(number, b"")
        if len(chunk) != min(CHUNK, moved - number * CHUNK) * _SIZE:
            raise Corrupt(f"chunk {number} of a user has {len(chunk)} bytes: rebuild table users from its log")
        parts.append(chunk)
    last = np.frombuffer(b"".join([*parts, behaviours]), dtype=BEHAVIOUR_DTYPE)[-SEQUENCE:]
    return last[np.argsort(last["event_time_ms"], kind="stable")]
