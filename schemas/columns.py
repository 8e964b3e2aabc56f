"""Avro longs encoded by the column: zigzag, then base-128 varints (Avro 1.12 specification, "Primitive Types").

fastavro encodes record by record; where thousands of records differ only in a few longs, those are one array operation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["encode_longs"]

#: A 64-bit value takes at most ten groups of seven bits.
_MOST_BYTES: Final = 10
#: Values from the k-th of these on take k + 2 bytes.
_LONGER_FROM: Final = np.array([1 << (7 * size) for size in range(1, _MOST_BYTES)], dtype=np.uint64)
_SHIFTS: Final = np.arange(_MOST_BYTES, dtype=np.uint64) * np.uint64(7)


def encode_longs(columns: npt.NDArray[np.int64]) -> list[bytes]:
    """Each row's longs, encoded one behind the other ([n, longs] int64 -> n byte strings)."""
    if not len(columns):
        return []
    zigzag = ((columns << 1) ^ (columns >> 63)).view(np.uint64)
    sizes = np.searchsorted(_LONGER_FROM, zigzag, side="right") + 1
    groups = ((zigzag[..., None] >> _SHIFTS) & np.uint64(0x7F)).astype(np.uint8)
    place = np.arange(_MOST_BYTES)
    groups |= (place < sizes[..., None] - 1).astype(np.uint8) << np.uint8(7)
    raw = groups[place < sizes[..., None]].tobytes()
    ends = np.cumsum(sizes.sum(axis=1)).tolist()
    return [raw[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
