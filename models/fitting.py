"""The one training loop: any models, the same batches, each its own optimiser.

Models that are compared see the same examples in the same order against the same drawn negatives; a batch is made once
for all of them. Pointwise logistic loss, Adam, a learning rate that falls linearly to nothing. A teacher's chances may
stand in for part of the labels (distillation), and its order may be taught beside them (alignment.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.aif import ItemEncoder
from models.alignment import Alignment, drawn_lists
from models.batch import Batch
from models.device import CPU
from models.examples import Batches, Examples
from schemas.errors import BadInput

__all__ = ["Budget", "Distillation", "Progress", "fit", "reproducible"]

#: Examples that inputs are standardised by.
_SAMPLED: Final = 512


@dataclass(frozen=True)
class Budget:
    """What a model may spend."""

    epochs: int = 2
    batch_size: int = 512  #: examples per step
    learning_rate: float = 2e-3  #: at the first step; it falls linearly to nothing at the last


@dataclass(frozen=True)
class Distillation:
    """A trained teacher, and the share of the loss that is agreement with its chances."""

    teacher: nn.Module
    share: float = 0.5


@dataclass(frozen=True)
class Progress:
    """Where training stands, after a step."""

    step: int  #: from 1
    steps: int
    loss: float
    model: str = ""  #: whose training it is, where several follow one another


def fit(
    models: Mapping[str, nn.Module],
    batches: Batches,
    known: Examples,
    budget: Budget,
    seed: int,
    progress: Callable[[Progress], None] = lambda _: None,
    distillation: Distillation | None = None,
    alignment: Alignment | None = None,
    penalties: Mapping[str, Callable[[nn.Module], Tensor]] | None = None,
    device: torch.device = CPU,
) -> dict[str, list[float]]:
    """Train the models side by side on a device, and leave them on the CPU; the losses of each at every step.

    A model's penalty is a term that its loss has besides, computed after its forward pass. `progress` hears of the last
    model. Raises BadInput naming the step at which a loss is not finite.
    """
    teachers = [each.teacher for each in (distillation, alignment) if each is not None]
    with _moved([*models.values(), *teachers], device):
        return _fitted(
            models, batches, known, budget, seed, progress, distillation, alignment, penalties or {}, device
        )  # fmt: skip


def _fitted(
    models: Mapping[str, nn.Module],
    batches: Batches,
    known: Examples,
    budget: Budget,
    seed: int,
    progress: Callable[[Progress], None],
    distillation: Distillation | None,
    alignment: Alignment | None,
    penalties: Mapping[str, Callable[[nn.Module], Tensor]],
    device: torch.device,
) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    lists_generator = np.random.default_rng([seed, 1])  # its own: with or without lists, the same negatives
    optimizers = {
        name: torch.optim.Adam(model.parameters(), lr=budget.learning_rate, fused=True)
        for name, model in models.items()
    }
    _standardise(models, batches, known)
    per_epoch = -(-len(known) // budget.batch_size)
    steps = budget.epochs * per_epoch
    losses: dict[str, list[float]] = {name: [] for name in models}
    for epoch in range(budget.epochs):
        order = generator.permutation(len(known))
        for number, chosen in enumerate(np.array_split(order, per_epoch), epoch * per_epoch + 1):
            chosen.sort()
            for optimizer in optimizers.values():
                optimizer.param_groups[0]["lr"] = budget.learning_rate * (1 - (number - 1) / steps)
            batch = batches.batch(known.take(chosen), generator).to(device)
            targets = _targets(batch, distillation)
            lists = drawn_lists(batches, known.take(chosen), alignment, lists_generator, device) if alignment else None
            for name, model in models.items():
                loss = _loss(model, batch, targets)
                if penalty := penalties.get(name):
                    loss = loss + penalty(model)
                if lists is not None and alignment is not None:
                    loss = loss + alignment.weight * lists.loss(model(lists.batch))
                value = _step(optimizers[name], loss)
                losses[name].append(value)
                if not np.isfinite(value):
                    raise BadInput(
                        f"the loss of the {name} is {value} at step {number} of {steps}: look for extreme prices or "
                        f"features in the log, or lower the learning rate ({budget.learning_rate})"
                    )
            progress(Progress(number, steps, losses[name][-1]))
    return losses


@contextmanager
def _moved(parts: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """The parts on a device, and on the CPU again, where they are judged and exported, whatever happens."""
    try:
        for part in parts:
            part.to(device)
        yield
    finally:
        for part in parts:
            part.to(CPU)


def _standardise(models: Mapping[str, nn.Module], batches: Batches, known: Examples) -> None:
    """Tell the item encoders how large their numeric inputs are, by examples spread over the known ones."""
    spread = np.linspace(0, len(known) - 1, min(len(known), _SAMPLED)).astype(np.int64)
    numeric = batches.batch(known.take(spread), np.random.default_rng(0)).numeric
    for model in models.values():
        for part in model.modules():
            if isinstance(part, ItemEncoder):
                part.standardise(numeric)


def _targets(batch: Batch, distillation: Distillation | None) -> Tensor:
    """What the logits are to say ([B, C] chances): the labels, and in part what the teacher thinks."""
    if distillation is None:
        return batch.labels
    with torch.no_grad():
        taught = torch.sigmoid(distillation.teacher(batch))
    return torch.lerp(batch.labels, taught, distillation.share)


def _loss(model: nn.Module, batch: Batch, targets: Tensor) -> Tensor:
    each = F.binary_cross_entropy_with_logits(model(batch), targets, reduction="none")  # [B, C]
    return (each * batch.weights).sum() / batch.weights.sum()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    value = loss.item()
    if np.isfinite(value):
        optimizer.step()
    return value


@contextmanager
def reproducible(seed: int, threads: int, device: torch.device = CPU) -> Iterator[None]:
    """Seeds torch, fixes its threads and its deterministic kernels, and leaves it as it was.

    On another device than the CPU an operation that has no deterministic kernel there is warned of and runs.
    """
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[] if device == CPU else [device]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=device != CPU)
        # Filling memory is for code that reads what it did not write, and costs a tenth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(before)
