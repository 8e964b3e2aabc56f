"""Fewer bits: what item rows and the head's layers become as bfloat16 or int8, in training or after it.

bf16   the upper half of a float32.
int8   symmetric: a row of k values is one float32 scale, the largest magnitude / 127, and k whole numbers.

Everything is simulated in float32 with a straight-through gradient, so that one function serves both ways: a model
that is trained through it learns to live with the rounding, one that meets it afterwards does not. Serving has bf16
rows (domain/n2o.py) and a float32 head; `aif experiment quantization` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.aif import AIF, served

__all__ = ["BYTES", "Precision", "int8_parts", "quantize_head", "quantize_rows", "rounded"]

Precision = Literal["fp32", "bf16", "int8"]
#: Bytes of a value; an int8 row has a float32 scale besides.
BYTES: Final[Mapping[Precision, int]] = {"fp32": 4, "bf16": 2, "int8": 1}
_LARGEST: Final = 127


def int8_parts(values: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers in -127..127 (float32) and the scale of each row ([..., k] -> [..., k], [..., 1]); no gradient."""
    with torch.no_grad():
        scale = values.abs().amax(-1, keepdim=True) / _LARGEST
        whole = torch.round(values / torch.where(scale > 0, scale, 1.0))
    return whole, scale


def rounded(values: Tensor, precision: Precision, dim: int = -1) -> Tensor:
    """Values as they come back from a precision; the gradient passes as if nothing had happened.

    `dim` is what shares an int8 scale.
    """
    if precision == "fp32":
        return values
    if precision == "bf16":
        return served(values)
    whole, scale = int8_parts(values.transpose(dim, -1))
    return values + ((whole * scale).transpose(dim, -1) - values).detach()


def quantize_rows(model: AIF, precision: Precision) -> None:
    """Let a model's item vectors and bridge weights be of a precision, a scale for each of the two."""
    rows: Callable[[Tensor], Tensor] = partial(rounded, precision=precision)
    model.rows = rows


def quantize_head(model: AIF, precision: Precision) -> None:
    """Let the head's weights on item vectors and its second layer be of a precision, a scale for each output."""
    parametrize.register_parametrization(model.head, "vector_weight", _Rounded(precision, 0))  # [d, h1]
    parametrize.register_parametrization(model.head.second, "weight", _Rounded(precision, 1))  # [h2, h1]


class _Rounded(nn.Module):
    """A weight as it comes back from a precision."""

    def __init__(self, precision: Precision, dim: int) -> None:
        super().__init__()
        self._precision, self._dim = precision, dim

    def forward(self, weight: Tensor) -> Tensor:
        return rounded(weight, self._precision, self._dim)
