"""Entity ids and the keys they become.

Items and users are int64 everywhere. A source that names them otherwise is hashed at the edge, once, and the
original is kept in the record. A key is the id as 8 big-endian bytes, so that the same entity has the same key, and
by murmur2 the same partition, in every topic and table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = [
    "CHUNK_KEY_BYTES",
    "ENTITY_KEY_BYTES",
    "WATERMARK_KEY",
    "chunk_key",
    "chunk_of",
    "entity_id",
    "entity_ids",
    "entity_key",
    "entity_keys",
    "hashed_id",
    "source_key",
]

#: Key of the watermark row of a table partition. Entity keys are 8 bytes (12 with a chunk number), this is 9,
#: a source's 18.
WATERMARK_KEY = b"watermark"

_KEY = struct.Struct(">q")
_CHUNK_KEY = struct.Struct(">qI")
_SOURCE_KEY = struct.Struct(">6sqI")
_INT64_MAX = 2**63 - 1

#: Length of an entity's key.
ENTITY_KEY_BYTES = _KEY.size
#: Length of a chunk's key: an id and a chunk number.
CHUNK_KEY_BYTES = _CHUNK_KEY.size


def hashed_id(original: str) -> int:
    """The int64 id of a string id: xxh3-64 of its UTF-8 bytes, as a signed number."""
    value = xxhash.xxh3_64_intdigest(original.encode())
    return value - 2**64 if value > _INT64_MAX else value


def entity_key(entity: int) -> bytes:
    """The 8-byte big-endian key of an id. Raises struct.error outside int64."""
    return _KEY.pack(entity)


def entity_id(key: bytes) -> int:
    """The id of an 8-byte key."""
    value: int = _KEY.unpack(key)[0]
    return value


def chunk_key(entity: int, number: int) -> bytes:
    """The 12-byte key of a chunk behind an entity's row: id and chunk number, big-endian."""
    return _CHUNK_KEY.pack(entity, number)


def chunk_of(key: bytes) -> tuple[int, int]:
    """The id and the chunk number of a 12-byte key."""
    entity, number = _CHUNK_KEY.unpack(key)
    return entity, number


def source_key(topic_id: int, partition: int) -> bytes:
    """The 18-byte key of the row that keeps the progress of a source partition."""
    return _SOURCE_KEY.pack(b"source", topic_id, partition)


def entity_keys(entities: npt.NDArray[np.int64]) -> list[bytes]:
    """Keys of many ids ([n] int64)."""
    raw = entities.astype(">i8").tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)]


def entity_ids(keys: Iterable[bytes]) -> npt.NDArray[np.int64]:
    """Ids of many 8-byte keys."""
    return np.frombuffer(b"".join(keys), dtype=">i8").astype(np.int64)
