"""Training: examples of a log in, a model and its held-out metrics out.

Pointwise logistic loss, Adam, one time-based split. Equal log, config and options on one machine give equal weights
bit for bit: all randomness comes from the seed and the kernels are the deterministic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from models.aif import AIF, Batch
from models.config import ModelConfig
from models.examples import Batches, Examples, examples_of
from models.log import Log
from models.metrics import auc, gauc, logloss
from schemas.errors import BadInput

__all__ = ["Progress", "Trained", "TrainingOptions", "evaluate", "train"]


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how to train; not part of the model."""

    seed: int = 1
    epochs: int = 2
    max_examples: int | None = None  #: the newest so many examples of the log; None is all
    batch_size: int = 512  #: examples per step
    negatives: int = 4  #: drawn per positive, where the log has no impressions
    learning_rate: float = 2e-3
    held_out: float = 0.1  #: share of the newest examples that is judged and not trained on
    judged: int = 20_000  #: at most so many held-out examples are judged, evenly spread
    threads: int = 1  #: of torch; another number may round differently, and more than idle cores is slower

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.negatives, self.threads, self.judged) < 1:
            raise BadInput("epochs, batch_size, negatives, judged and threads must be at least 1")
        if self.max_examples is not None and self.max_examples < 2:
            raise BadInput(f"max_examples must be at least 2, not {self.max_examples}")
        if not 0 < self.held_out < 1:
            raise BadInput(f"held_out must lie between 0 and 1, not {self.held_out}")


@dataclass(frozen=True)
class Progress:
    """Where training stands, after a step."""

    step: int  #: from 1
    steps: int
    loss: float


@dataclass(frozen=True)
class Trained:
    """A trained model with what is known of it."""

    model: AIF
    metrics: dict[str, float]  #: of the held-out tail: auc, gauc, logloss, and the counts behind them
    losses: list[float]  #: of every step


def train(
    log: Log,
    config: ModelConfig,
    options: TrainingOptions | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train on all but the newest examples of the log, judge on those.

    Raises BadInput where the log has too few examples, or naming the step at which the loss is not finite.
    """
    options = options or TrainingOptions()
    examples = examples_of(log)
    if options.max_examples is not None:
        examples = examples.take(slice(max(0, len(examples) - options.max_examples), None))
    known, held_out = examples.split(log, options.held_out)
    with _reproducible(options):
        batches = Batches(log, config, options.negatives)
        model = AIF(config)
        losses = _fit(model, batches, known, options, progress)
        metrics = evaluate(model, batches, _spread(held_out, options.judged), log, options)
    metrics |= {"train_examples": len(known), "train_loss": float(np.mean(losses[-100:]))}
    return Trained(model, metrics, losses)


def _fit(
    model: AIF, batches: Batches, known: Examples, options: TrainingOptions, progress: Callable[[Progress], None]
) -> list[float]:
    generator = np.random.default_rng(options.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)
    per_epoch = -(-len(known) // options.batch_size)
    steps = options.epochs * per_epoch
    losses: list[float] = []
    for _ in range(options.epochs):
        order = generator.permutation(len(known))
        for chosen in np.array_split(order, per_epoch):
            chosen.sort()
            batch = batches.batch(known.take(chosen), generator)
            loss = _loss(model(batch), batch)
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise BadInput(
                    f"the loss is {losses[-1]} at step {len(losses)} of {steps}: look for extreme prices or features "
                    f"in the log, or lower the learning rate ({options.learning_rate})"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress(Progress(len(losses), steps, losses[-1]))
    return losses


def _loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    each = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")  # [B, C]
    return (each * batch.weights).sum() / batch.weights.sum()


def evaluate(model: AIF, batches: Batches, examples: Examples, log: Log, options: TrainingOptions) -> dict[str, float]:
    """AUC, GAUC (by user) and logistic loss of the model on some examples, in the served form."""
    generator = np.random.default_rng([options.seed, 1])
    users, labels, logits = [], [], []
    with torch.inference_mode():
        for start in range(0, len(examples), options.batch_size):
            part = examples.take(slice(start, start + options.batch_size))
            batch = batches.batch(part, generator)
            counts = batch.weights.numpy() > 0  # [B, C]
            user = np.broadcast_to(log.events.user_id[part.positions][:, None], counts.shape)
            users.append(user[counts])
            labels.append(batch.labels.numpy()[counts])
            logits.append(model(batch).numpy()[counts])
    user_ids, label, logit = np.concatenate(users), np.concatenate(labels), np.concatenate(logits)
    return {
        "auc": auc(label, logit),
        "gauc": gauc(user_ids, label, logit),
        "logloss": logloss(label, logit),
        "positives": int(label.sum()),
        "candidates": len(label),
    }


def _spread(examples: Examples, count: int) -> Examples:
    if len(examples) <= count:
        return examples
    return examples.take(np.linspace(0, len(examples) - 1, count).astype(np.int64))


@contextmanager
def _reproducible(options: TrainingOptions) -> Iterator[None]:
    """Seeds torch, fixes its threads and its deterministic kernels, and leaves it as it was."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        torch.set_num_threads(options.threads)
        torch.use_deterministic_algorithms(True)
        # Filling memory is for code that reads what it did not write, and costs a tenth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)
