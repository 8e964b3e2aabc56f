"""The N2O record: everything the online path needs of one item, in one fixed-size row.

Little-endian, one numpy structured dtype. At the defaults (64 vector values, 16 bridges, 64 bits) it is 256 bytes:

====== ===== ================== ==========================================================
offset bytes field              meaning
====== ===== ================== ==========================================================
0      8     item_id            int64; a reader checks that it got the row it asked for
8      8     event_time_ms      int64; of the catalogue update behind the row
16     8     source_topic_id    int64; with source_offset: which update that was
24     8     source_offset      int64
32     8     version            uint64; the model that made vector and bridges (artifact.py)
40     8     snapshot_ms        int64; of the item's activity in the vector, -1 for none (activity_row.py)
48     8     category_id        int64; meaningful with HAS_CATEGORY
56     4     price              float32; meaningful with HAS_PRICE
60     4     flags              uint32; see Flag
64     8     signature          LSH bits, most significant first (bits / 8 bytes)
72     32    bridges            bfloat16 softmax weights over the bridges (BEA)
104    128   vector             bfloat16 item vector
232    24    (padding)          to a multiple of 64, so that records align with cache lines
====== ===== ================== ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.bf16 import from_bf16, to_bf16

__all__ = ["Flag", "N2OLayout"]


class Flag(IntFlag):
    """Bits of a record's `flags`."""

    DELETED = 1  #: not servable; kept because behaviours may still point at it
    HAS_CATEGORY = 2
    HAS_PRICE = 4
    HAS_SIGNATURE = 8


@dataclass(frozen=True)
class N2OLayout:
    """Sizes of a record; part of an artifact's manifest."""

    vector_dim: int
    bridges: int
    signature_bits: int

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The record as a numpy dtype of `stride` bytes."""
        fields: list[tuple[str, Any, int]] = [
            ("item_id", "<i8", 1),
            ("event_time_ms", "<i8", 1),
            ("source_topic_id", "<i8", 1),
            ("source_offset", "<i8", 1),
            ("version", "<u8", 1),
            ("snapshot_ms", "<i8", 1),
            ("category_id", "<i8", 1),
            ("price", "<f4", 1),
            ("flags", "<u4", 1),
            ("signature", "u1", self.signature_bits // 8),
            ("bridges", "<u2", self.bridges),
            ("vector", "<u2", self.vector_dim),
        ]
        sizes = [np.dtype(kind).itemsize * count for _, kind, count in fields]
        offsets = [0, *np.cumsum(sizes)[:-1].tolist()]
        return np.dtype(
            {
                "names": [name for name, _, _ in fields],
                "formats": [
                    (kind, (count,)) if name in ("signature", "bridges", "vector") else kind
                    for name, kind, count in fields
                ],
                "offsets": offsets,
                "itemsize": -(-sum(sizes) // 64) * 64,
            }
        )

    @property
    def stride(self) -> int:
        """Bytes per record, a multiple of 64."""
        return self.dtype.itemsize

    def empty(self, count: int) -> npt.NDArray[Any]:
        """`count` zeroed records."""
        return np.zeros(count, dtype=self.dtype)

    def set_vectors(
        self, records: npt.NDArray[Any], vectors: npt.NDArray[np.float32], bridges: npt.NDArray[np.float32]
    ) -> None:
        """Round and store what the item tower made ([n, vector_dim], [n, bridges] float32)."""
        records["vector"] = to_bf16(vectors)
        records["bridges"] = to_bf16(bridges)

    def vectors(self, records: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Item vectors ([n, vector_dim] float32)."""
        return from_bf16(records["vector"])

    def bridge_weights(self, records: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Bridge weights ([n, bridges] float32)."""
        return from_bf16(records["bridges"])
