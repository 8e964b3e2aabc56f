"""Training: examples of a log in, a model and its held-out metrics out.

Pointwise logistic loss, Adam, one time-based split. Equal log, config and options on one machine give equal weights
bit for bit: all randomness comes from the seed and the kernels are the deterministic ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.aif import AIF
from models.config import ModelConfig
from models.evaluation.judged import judged, spread
from models.examples import Batches, Examples, examples_of
from models.fitting import Budget, Progress, fit, reproducible
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
    with reproducible(options.seed, options.threads):
        batches = Batches(log, config, options.negatives)
        model = AIF(config)
        budget = Budget(options.epochs, options.batch_size, options.learning_rate)
        losses = fit({"aif": model}, batches, known, budget, options.seed, progress)["aif"]
        metrics = evaluate(model, batches, spread(held_out, options.judged), log)
    metrics |= {"train_examples": len(known), "train_loss": float(np.mean(losses[-100:]))}
    return Trained(model, metrics, losses)


def evaluate(model: AIF, batches: Batches, examples: Examples, log: Log) -> dict[str, float]:
    """AUC, GAUC (by user) and logistic loss of the model on some examples, in the served form."""
    held = judged(log, batches, examples)
    logits = held.scores(model)
    return {
        "auc": auc(held.labels, logits),
        "gauc": gauc(held.users, held.labels, logits),
        "logloss": logloss(held.labels, logits),
        "positives": int(held.labels.sum()),
        "candidates": len(held.labels),
    }
