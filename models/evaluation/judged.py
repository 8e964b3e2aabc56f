"""Held-out examples with their negatives, made once, so that every model and every seed is judged on the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.batch import Batch
from models.examples import Batches, Examples
from models.log import Log

__all__ = ["Judged", "judged", "spread"]

#: Draws negatives of held-out examples: not a model's seed, all are judged alike.
_SEED = 977


@dataclass(frozen=True)
class Judged:
    """Batches, and their candidates that count, one after the other ([N])."""

    batches: list[Batch]
    users: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]

    def scores(self, model: nn.Module) -> npt.NDArray[np.float32]:
        """The model's logits of all candidates ([N])."""
        found: list[npt.NDArray[np.float32]] = []
        with torch.inference_mode():
            found.extend(model(batch).numpy()[batch.weights.numpy() > 0] for batch in self.batches)
        return np.concatenate(found)


def judged(log: Log, batches: Batches, examples: Examples, batch_size: int = 256) -> Judged:
    """Examples as batches, with negatives drawn where the log has none."""
    generator = np.random.default_rng(_SEED)
    made, users, labels = [], [], []
    for start in range(0, len(examples), batch_size):
        part = examples.take(slice(start, start + batch_size))
        batch = batches.batch(part, generator)
        counts = batch.weights.numpy() > 0  # [B, C]
        users.append(np.broadcast_to(log.events.user_id[part.positions][:, None], counts.shape)[counts])
        labels.append(batch.labels.numpy()[counts])
        made.append(batch)
    return Judged(made, np.concatenate(users), np.concatenate(labels))


def spread(examples: Examples, count: int) -> Examples:
    """At most `count` of the examples, evenly spread."""
    if len(examples) <= count:
        return examples
    return examples.take(np.linspace(0, len(examples) - 1, count).astype(np.int64))
