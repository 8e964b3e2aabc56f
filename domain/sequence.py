"""A user's behaviours in log order: the newest in the head row, the older ones in chunks of 256 behind it.

A head holds the newest 32 behaviours, and up to 31 more that wait. At 64 the oldest 32 move into the *open* chunk: the
head grows by one behaviour an event and a chunk is written once in 32 events, eight times until it is full; full, it is
*sealed* and never written again. A head that held back 256 until a chunk could be written at once would cost five
kilobytes with every event. Chunk n holds behaviours 256 n to 256 n + 255 of those that ever moved (`moved` in the
head); the chunk that lies `_KEPT_CHUNKS` behind a new one goes, so that the last 10,000 behaviours of the log are
always there.

Behaviours that move also enter the head's *category index*, for hard search by category beyond the head: of at most
eight categories the last four behaviours each. A category's weight is its decayed count of moved behaviours, by event
time with a half life of a week; when a ninth comes, the lightest goes and leaves it its weight (Space-Saving), so that
every category of more than an eighth of the weight is there. At most 680 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.errors import Corrupt

__all__ = [
    "BEHAVIOURS",
    "BEHAVIOUR_DTYPE",
    "CHUNK",
    "INDEX_DTYPE",
    "SEQUENCE",
    "Moved",
    "by_time",
    "held_chunks",
    "indexed",
    "move",
    "moves",
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

_INDEXED_CATEGORIES: Final = 8
_INDEXED_EACH: Final = 4
_HALF_LIFE_MS: Final = 7 * 86_400_000

#: One category of the index: log2 of its weight, and its last behaviours, oldest first, `used` of them.
INDEX_DTYPE: Final = np.dtype(
    [("category_id", "<i8"), ("weight", "<f8"), ("used", "u1"),
     ("item_id", "<i8", _INDEXED_EACH), ("event_time_ms", "<i8", _INDEXED_EACH), ("action", "u1", _INDEXED_EACH)]
)  # fmt: skip

_SIZE: Final = BEHAVIOUR_DTYPE.itemsize
_MOVE: Final = BEHAVIOURS
#: Full chunks and the open one that together always reach back `SEQUENCE` behaviours.
_KEPT_CHUNKS: Final = -(-SEQUENCE // CHUNK) + 1


class Moved(NamedTuple):
    """A head's sequence after behaviours joined it."""

    behaviours: bytes
    moved: int
    category_index: bytes
    #: Chunks that changed, by number; None where one goes.
    chunks: dict[int, bytes | None]


def moves(held_bytes: int, joining: int) -> bool:
    """Whether a head of so many bytes of behaviours may have to move some when so many join."""
    return held_bytes // _SIZE + joining >= BEHAVIOURS + _MOVE


def held_chunks(moved: int) -> range:
    """Numbers of the chunks that exist after `moved` behaviours have moved."""
    end = -(-moved // CHUNK)
    return range(max(0, end - _KEPT_CHUNKS), end)


def move(behaviours: bytes, moved: int, index: bytes, open_chunk: bytes) -> Moved:
    """Move what a head must not hold any longer. `open_chunk` is the last chunk where it is not full yet, else b"".

    Raises Corrupt where the open chunk has not the length that `moved` says.
    """
    chunks: dict[int, bytes | None] = {}
    if len(open_chunk) != moved % CHUNK * _SIZE:
        raise Corrupt(
            f"the open chunk of a user has {len(open_chunk)} bytes, expected {moved % CHUNK * _SIZE}: head and chunks "
            "of table users do not belong together; rebuild the table from its log"
        )
    while len(behaviours) >= (BEHAVIOURS + _MOVE) * _SIZE:
        leaving, behaviours = behaviours[: _MOVE * _SIZE], behaviours[_MOVE * _SIZE :]
        number = moved // CHUNK
        if not open_chunk and number >= _KEPT_CHUNKS:
            chunks[number - _KEPT_CHUNKS] = None
        open_chunk += leaving
        chunks[number] = open_chunk
        if len(open_chunk) == CHUNK * _SIZE:
            open_chunk = b""
        moved += _MOVE
        index = indexed(index, leaving)
    return Moved(behaviours, moved, index, chunks)


def indexed(index: bytes, leaving: bytes) -> bytes:
    """The category index after behaviours have moved."""
    held: dict[int, list[Any]] = {
        int(row["category_id"]): [
            float(row["weight"]),
            list(zip(row["item_id"].tolist(), row["event_time_ms"].tolist(), row["action"].tolist(), strict=True))[
                : int(row["used"])
            ],
        ]
        for row in np.frombuffer(index, dtype=INDEX_DTYPE)
    }
    for item, time, category, _, has_category, action in np.frombuffer(leaving, dtype=BEHAVIOUR_DTYPE).tolist():
        if not has_category:
            continue
        more = time / _HALF_LIFE_MS
        if category in held:
            held[category][0] = _log2_added(held[category][0], more)
        elif len(held) < _INDEXED_CATEGORIES:
            held[category] = [more, []]
        else:
            lightest, _ = held.pop(min(held, key=lambda each: held[each][0]))
            held[category] = [_log2_added(lightest, more), []]
        held[category][1] = [*held[category][1], (item, time, action)][-_INDEXED_EACH:]
    packed = np.zeros(len(held), dtype=INDEX_DTYPE)
    for place, (category, (weight, last)) in enumerate(held.items()):
        row = packed[place]
        row["category_id"], row["weight"], row["used"] = category, weight, len(last)
        for name, column in zip(("item_id", "event_time_ms", "action"), zip(*last, strict=True), strict=True):
            row[name][: len(last)] = column
    return packed.tobytes()


def _log2_added(total: float, more: float) -> float:
    """log2(2 ** total + 2 ** more)."""
    larger, smaller = (total, more) if total >= more else (more, total)
    return larger + math.log2(1.0 + 2.0 ** (smaller - larger))


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
