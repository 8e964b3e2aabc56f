"""bfloat16 as numpy sees it: the upper half of a float32, kept as uint16."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["from_bf16", "to_bf16"]


def to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even. Values must be finite: a NaN's payload is not kept."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def from_bf16(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The float32 that each bfloat16 stands for, exactly."""
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
