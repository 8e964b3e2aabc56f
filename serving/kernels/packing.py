"""Weights as a variant of the kernel in C reads them: in its precision, in tiles of outputs, on lines of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domain.bf16 import to_bf16
from serving.kernels.head import Floats, Precision

__all__ = ["Packed", "Variant", "aligned", "packed", "packed_signs", "rounded_up", "widened"]

_LINE: Final = 64
_MOST_SUM: Final = np.iinfo(np.int16).max
_MOST_WEIGHT: Final = np.iinfo(np.int8).max
#: Columns that one multiplication takes, or two where it takes one.
_STEPS: Final = {"float32": 2, "bfloat16": 2, "int8": 4}


@dataclass(frozen=True)
class Variant:
    """One compilation of the kernel."""

    name: str
    number: int  #: in aif_runs
    lanes: int  #: 64-bit words of its vectors of bits
    tile: int  #: outputs whose weights stand together
    precision: Precision

    @property
    def step(self) -> int:
        """Columns stand in multiples of it."""
        return _STEPS[self.precision]


class Packed(NamedTuple):
    """Weights of a layer, or of a part of one."""

    weight: npt.NDArray[Any]  #: [tile of outputs][columns / s][tile][s] of what s columns one multiplication takes
    scale: Floats  #: [outputs, padded] what a one of their sums is worth, inputs' units left out; ones but for int8
    start: npt.NDArray[np.int32]  #: [outputs, padded] where sums begin whose inputs are 128 too large; int8 alone
    columns: int  #: padded


def packed(weight: Floats, variant: Variant) -> Packed:
    """Weights ([columns, outputs] float32), both sizes padded with zeros.

    int8 weights are counts of the output's largest magnitude / 127. An output with one that is not finite has a scale
    that is not, so that what it is part of has no score either.
    """
    columns, outputs = weight.shape
    padded = np.zeros((rounded_up(columns, variant.step), rounded_up(outputs, variant.tile)), dtype=np.float32)
    padded[:columns, :outputs] = weight
    scale = np.ones(padded.shape[1], dtype=np.float32)
    start = np.zeros(padded.shape[1], dtype=np.int32)
    values: npt.NDArray[Any] = padded
    side = 1  # columns that stand side by side
    if variant.precision == "bfloat16":
        values, side = to_bf16(padded), 2
    elif variant.precision == "int8":
        scale = np.abs(padded).max(axis=0, initial=0) / np.float32(_MOST_WEIGHT)
        values, side = _counts(padded, scale, np.int8), 4
        start = -128 * values.sum(axis=0, dtype=np.int32)
    laid = values.reshape(len(values) // side, side, -1, variant.tile).transpose(2, 0, 3, 1)
    weights = aligned(laid.shape, laid.dtype)
    weights[...] = laid
    return Packed(weights, scale, start, len(padded))


def packed_signs(weight: Floats, variant: Variant) -> tuple[npt.NDArray[Any], Floats]:
    """Weights of signs ([bits, outputs]) as a variant adds them up, [tile of outputs][bits][tile], and what a one of
    the sums is worth ([outputs, padded] float32): 1 of float32, or the smallest unit of int16 that no sum overflows.

    A column that is not finite has a unit that is not, so that its scores are none either.
    """
    bits, outputs = weight.shape
    padded = np.zeros((bits, rounded_up(outputs, variant.tile)), dtype=np.float32)
    padded[:, :outputs] = weight
    units: npt.NDArray[Any] = padded
    scale = np.ones(padded.shape[1], dtype=np.float32)
    if variant.precision != "float32":
        scale = np.abs(padded).sum(axis=0) / np.float32(_MOST_SUM - bits)  # a sum rounds by half a unit for each bit
        units = _counts(padded, scale, np.int16)
    laid = aligned((padded.shape[1] // variant.tile, bits, variant.tile), units.dtype)
    laid[...] = units.reshape(bits, len(laid), variant.tile).transpose(1, 0, 2)
    return laid, scale


def widened(values: Floats, tile: int) -> Floats:
    """A row ([outputs] float32) padded with zeros to whole tiles."""
    wide = np.zeros(rounded_up(len(values), tile), dtype=np.float32)
    wide[: len(values)] = values
    return wide


def rounded_up(count: int, to: int) -> int:
    """The next multiple."""
    return -(-count // to) * to


def aligned(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Zeros that begin on a line of the cache: vectors that cross two lines take twice as long to load."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _LINE
    found: npt.NDArray[Any] = raw[start : start + size].view(dtype).reshape(shape)
    return found


def _counts(values: Floats, unit: Floats, dtype: Any) -> npt.NDArray[Any]:
    """Values ([columns, outputs]) as whole numbers of each output's unit; 0 where there is no unit."""
    with np.errstate(invalid="ignore"):
        counts: npt.NDArray[Any] = np.rint(np.nan_to_num(values / np.where(unit == 0, 1, unit))).astype(dtype)
    return counts
