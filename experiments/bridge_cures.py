"""What is tried against bridges that resemble each other, or that items do not tell apart.

Two terms of the loss, dropout of bridges, and bridges that start long: the longer they are, the sharper are the softmax
weights of items over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.aif import AIF
from models.bridge_choice import mutual_information
from models.config import ModelConfig

__all__ = ["Watched", "choice", "overlap"]

#: Of the term of orthogonality; not tuned.
OVERLAP_WEIGHT: Final = 1.0


class Watched(AIF):
    """An AIF whose bridge weights a term of the loss can read, and which may leave bridges out while it is trained."""

    weights: Tensor  #: [U, n] of the batch's items, with their gradient

    def __init__(self, config: ModelConfig, dropped: float = 0.0, length: float = 1.0) -> None:
        """`dropped` is the share of bridges that a training step leaves out; `length` scales them at the start."""
        super().__init__(config)
        with torch.no_grad():
            self.tower.bridges.mul_(length)
        self.dropped = dropped
        self._alike: Tensor | None = None  # [n], of every item while it is set
        self.tower.register_forward_hook(self._seen)

    @contextmanager
    def all_items_alike(self, weights: Tensor) -> Iterator[None]:
        """Every item has these weights ([n]), so that bridges say nothing of the single item."""
        self._alike = weights
        try:
            yield
        finally:
            self._alike = None

    def _seen(self, _: nn.Module, __: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        vector, weights = output
        if self.training and self.dropped:
            # One choice for all items of a batch: the user's side of a bridge is left out with it.
            kept = (torch.rand(weights.shape[-1]) >= self.dropped).to(weights.dtype)
            weights = weights * kept
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        if self._alike is not None:
            weights = self._alike.expand_as(weights)
        self.weights = weights
        return vector, weights


def overlap(model: nn.Module) -> Tensor:
    """The mean squared cosine of different bridges, weighted: presses bridges to be orthogonal."""
    assert isinstance(model, Watched)
    unit = F.normalize(model.tower.bridges, dim=-1)  # [n, d]
    cosines = unit @ unit.T - torch.eye(len(unit))
    return torch.as_tensor(OVERLAP_WEIGHT * cosines.square().sum() / max(len(unit) * (len(unit) - 1), 1))


def choice(weight: float) -> Callable[[nn.Module], Tensor]:
    """Minus the mutual information of the batch's items and bridges, weighted: presses items to choose few bridges
    each, and all of them together to use all bridges."""

    def term(model: nn.Module) -> Tensor:
        assert isinstance(model, Watched)
        return -weight * mutual_information(model.weights)

    return term
