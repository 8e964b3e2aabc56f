"""Training: examples of a log in, a model and its held-out metrics out.

Pointwise logistic loss, Adam, one time-based split. With distillation or alignment the full ranker is trained first, on
the same examples, and taught. At the end the held-out tail says what the chances are worth (calibration.py). Equal log,
config and options on one machine's CPU give equal weights bit for bit: all randomness comes from the seed and the
kernels are the deterministic ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from torch import nn

from models.aif import AIF
from models.alignment import Alignment
from models.baselines.parts import BaselineConfig
from models.baselines.ranker import Ranker
from models.bridge_choice import BridgeChoice, bridge_choice
from models.calibration import Calibration, calibration_error, fold_calibration, platt
from models.config import ModelConfig
from models.device import Device, device_named
from models.evaluation.judged import Judged, judged, spread
from models.examples import Batches, examples_of
from models.fitting import Budget, Distillation, Progress, fit, reproducible
from models.log import Log
from models.metrics import auc, gauc, logloss
from schemas.errors import BadInput

__all__ = ["Progress", "Trained", "TrainingOptions", "train"]

_STUDENT: Final = "model"
_TEACHER: Final = "teacher"
#: Of either label; fewer say too little of what a chance is worth.
_FEWEST_TO_CALIBRATE: Final = 50


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
    device: Device = "cpu"
    threads: int = 1  #: of torch; another number may round differently, and more than idle cores is slower
    distill: float = 0.0  #: share of the full ranker's chances in what is learned; 0 trains no ranker for it
    align: float = 0.0  #: weight of the full ranker's order beside the labels' loss; 0 leaves it out
    choose_bridges: float = 0.0  #: weight of items' choosing among bridges beside the labels' loss; 0 leaves it out
    calibrate: bool = True  #: fold the held-out tail's slope and offset into the head's last layer

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.negatives, self.threads, self.judged) < 1:
            raise BadInput("epochs, batch_size, negatives, judged and threads must be at least 1")
        if self.max_examples is not None and self.max_examples < 2:
            raise BadInput(f"max_examples must be at least 2, not {self.max_examples}")
        if not 0 < self.held_out < 1:
            raise BadInput(f"held_out must lie between 0 and 1, not {self.held_out}")
        if not 0 <= self.distill <= 1:
            raise BadInput(f"distill must lie between 0 and 1, not {self.distill}")
        for name in ("align", "choose_bridges"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name} must be at least 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class Trained:
    """A trained model with what is known of it."""

    model: AIF
    #: Of the held-out tail: auc, gauc, logloss, calibration_error, the counts behind them; teacher_gauc where there is
    #: a teacher. logloss and calibration_error are of users that the calibration was not fitted on.
    metrics: dict[str, float]
    losses: list[float]  #: of every step
    calibration: Calibration | None  #: what was folded into the head
    trained_from_ms: int  #: event time of the first example
    judged_from_ms: int  #: event time of the first held-out example


def train(
    log: Log,
    config: ModelConfig,
    options: TrainingOptions | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train on all but the newest examples of the log, judge on those.

    Raises BadInput where the log has too few examples, where there are no bridges to choose among, or naming the step
    at which the loss is not finite.
    """
    options = options or TrainingOptions()
    if options.choose_bridges and config.bea == "none":
        raise BadInput("choose_bridges needs bridges to choose among: leave it out where bea is none")
    examples = examples_of(log)
    if options.max_examples is not None:
        examples = examples.take(slice(max(0, len(examples) - options.max_examples), None))
    known, held_out = examples.split(log, options.held_out)
    sizes, taught = BaselineConfig(), bool(options.distill or options.align)
    device = device_named(options.device)
    with reproducible(options.seed, options.threads, device):
        batches = Batches(log, config, options.negatives, sizes.long_behaviours if taught else 0)
        budget = Budget(options.epochs, options.batch_size, options.learning_rate)

        def fitted(
            name: str, model: nn.Module, distillation: Distillation | None = None, alignment: Alignment | None = None,
            choice: BridgeChoice | None = None,
        ) -> list[float]:  # fmt: skip
            return fit(
                {name: model}, batches, known, budget, options.seed, lambda at: progress(replace(at, model=name)),
                distillation, alignment, {name: choice} if choice else None, device,
            )[name]  # fmt: skip

        model = AIF(config)  # before a teacher draws from the seed: taught or not, it starts from the same weights
        teacher = Ranker(config, sizes) if taught else None
        if teacher is not None:
            fitted(_TEACHER, teacher)
        with bridge_choice(model.tower, options.choose_bridges) as choice:
            losses = fitted(
                _STUDENT, model,
                Distillation(teacher, options.distill) if teacher and options.distill else None,
                Alignment(teacher, options.align) if teacher and options.align else None,
                choice if options.choose_bridges else None,
            )  # fmt: skip
        held = judged(log, batches, spread(held_out, options.judged))
        metrics, calibration = _judged(model, held, options.calibrate)
        if teacher is not None:
            metrics["teacher_gauc"] = gauc(held.users, held.labels, held.scores(teacher))
    metrics |= {"train_examples": len(known), "train_loss": float(np.mean(losses[-100:]))}
    from_ms, judged_from_ms = (int(log.events.time_ms[part.positions[0]]) for part in (known, held_out))
    return Trained(model, metrics, losses, calibration, from_ms, judged_from_ms)


def _judged(model: AIF, held: Judged, calibrate: bool) -> tuple[dict[str, float], Calibration | None]:
    """Metrics of the served form on held-out examples; where it is wanted and possible, the model is calibrated first.

    A calibration is fitted on every second user and judged on the others. AUC and GAUC are of all: it changes no order.
    Possible is one with enough of either label.
    """
    logits, labels = held.scores(model), held.labels
    _, user = np.unique(held.users, return_inverse=True)
    fitting = user % 2 == 1
    positives = int(labels[fitting].sum())
    enough = min(positives, int(fitting.sum()) - positives) >= _FEWEST_TO_CALIBRATE
    calibration = platt(labels[fitting], logits[fitting]) if calibrate and enough else None
    if calibration is not None:
        fold_calibration(model.head, calibration)
        logits = calibration.apply(logits)
    metrics = {
        "auc": auc(labels, logits),
        "gauc": gauc(held.users, labels, logits),
        "logloss": logloss(labels[~fitting], logits[~fitting]),
        "calibration_error": calibration_error(labels[~fitting], logits[~fitting]),
        "positives": int(labels.sum()),
        "candidates": len(labels),
    }
    return metrics, calibration
