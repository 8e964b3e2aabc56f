"""A term of the loss that makes items choose among the bridges.

Left alone, an item spreads its weights over most of the bridges that there are, and every bridge sees a little of every
item; that is where more bridges stop helping (`aif experiment bridges`). The term is minus the mutual information of a
batch's items and bridges: the mean entropy of an item's weights less the entropy of the items' mean weights. It is
least where each item has one bridge and all of them together have all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.aif import ItemTower

__all__ = ["BridgeChoice", "bridge_choice", "mutual_information"]


class BridgeChoice:
    """The term of one tower's last batch, weighted."""

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._bridges: Tensor | None = None  # [U, n] of the batch's items, with their gradient

    def __call__(self, _: nn.Module) -> Tensor:
        """The term; call it after the model's forward pass."""
        assert self._bridges is not None, "the model has scored no batch yet"
        return -self._weight * mutual_information(self._bridges)

    def see(self, _: nn.Module, __: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        """A forward hook: keeps the tower's bridge weights."""
        self._bridges = output[1]


@contextmanager
def bridge_choice(tower: ItemTower, weight: float) -> Iterator[BridgeChoice]:
    """The term while a tower is trained; afterwards nothing looks at the tower any more, so that it can be exported."""
    term = BridgeChoice(weight)
    hook = tower.register_forward_hook(term.see)
    try:
        yield term
    finally:
        hook.remove()


def mutual_information(weights: Tensor) -> Tensor:
    """Of items and bridges, in nats: the weights [U, n] of each row are the chances of its bridges."""
    return _entropy(weights.mean(0)) - _entropy(weights).mean()


def _entropy(weights: Tensor) -> Tensor:
    return -(weights * torch.log(weights.clamp(min=1e-12))).sum(-1)
