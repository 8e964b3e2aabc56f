"""Which partition an entity lives in: Kafka's murmur2, vectorised.

Everything is partitioned by the entity's 8-byte key (schemas/ids.py) the way Java's and kafka-python's default
partitioners do it. librdkafka's default differs: set `partitioner=murmur2_random` there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["partition_of", "partitions_of"]

_SEED: Final = np.uint32(0x9747B28C)
_MIX: Final = np.uint32(0x5BD1E995)


def partitions_of(entities: npt.NDArray[np.int64], partitions: int) -> npt.NDArray[np.int32]:
    """Partition of each id ([n] int64 -> [n] int32): murmur2 of its key, sign bit cleared, modulo `partitions`."""
    words = entities.astype(">i8").view("<u4").reshape(-1, 2).astype(np.uint32)
    with np.errstate(over="ignore"):
        digest = np.full(len(words), _SEED ^ np.uint32(8), dtype=np.uint32)
        for column in range(2):
            word = words[:, column] * _MIX
            word ^= word >> np.uint32(24)
            digest = digest * _MIX ^ word * _MIX
        digest ^= digest >> np.uint32(13)
        digest *= _MIX
        digest ^= digest >> np.uint32(15)
    return ((digest & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)).astype(np.int32)


def partition_of(entity: int, partitions: int) -> int:
    """Partition of one id."""
    return int(partitions_of(np.array([entity], dtype=np.int64), partitions)[0])
