"""Platt scaling: chances that mean what they say, folded into the head's last layer.

Two numbers, slope and offset, are fitted on held-out logits so that sigmoid(slope * logit + offset) is as likely as it
can be; the head's last layer is linear, so they fold into its weights and serving computes nothing more. The order of
candidates stays as it was. Where a log has drawn negatives, a chance is that among a positive and its drawn negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from models.aif import Head

__all__ = ["Calibration", "calibration_error", "fold_calibration", "platt"]

_Float = npt.NDArray[np.float32]
_STEPS: Final = 100
_BINS: Final = 10


@dataclass(frozen=True)
class Calibration:
    """sigmoid(slope * logit + offset) is the chance."""

    slope: float  #: > 0
    offset: float

    def apply(self, logits: _Float) -> _Float:
        """Calibrated logits ([n] -> [n])."""
        return (self.slope * logits + self.offset).astype(np.float32)


def platt(labels: _Float, logits: _Float) -> Calibration | None:
    """The slope and offset of the largest likelihood ([n] 0 or 1, [n]), found by Newton's method.

    Labels count as (positives + 1) / (positives + 2) and 1 / (negatives + 2), as Platt has it, so that the optimum
    exists where logits separate the labels. None where either label is missing, or where the best slope is not
    positive: it would turn the order round, and a model of no use is not made better by that.
    """
    positive = labels > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    targets = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    inputs = np.stack((logits.astype(np.float64), np.ones(len(logits))), axis=1)  # [n, 2]
    found = np.array([1.0, 0.0])
    loss = _loss(inputs @ found, targets)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        gradient = inputs.T @ (chances - targets)
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Newton's step may overshoot where logits are large; half of it until the likelihood does not fall.
        while (tried := _loss(inputs @ (found - step), targets)) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        found, improved, loss = found - step, loss - tried, min(loss, tried)
        if improved < 1e-12 * max(1.0, loss):
            break
    slope, offset = map(float, found)
    return Calibration(slope, offset) if slope > 0 and np.isfinite(found).all() else None


def fold_calibration(head: Head, calibration: Calibration) -> None:
    """Put slope and offset into the head's last layer: from now on its logits are the calibrated ones."""
    with torch.no_grad():
        head.third.weight.mul_(calibration.slope)
        head.third.bias.mul_(calibration.slope).add_(calibration.offset)


def calibration_error(labels: _Float, logits: _Float) -> float:
    """Mean distance between chance and share of positives, over ten bins of equally many logits ([n], [n]).

    nan without examples.
    """
    if not len(labels):
        return float("nan")
    order = np.argsort(logits, kind="stable")
    chances = 1 / (1 + np.exp(-logits[order].astype(np.float64)))
    bins = np.array_split(np.arange(len(order)), _BINS)
    distances = [abs(chances[each].mean() - labels[order][each].mean()) * len(each) for each in bins if len(each)]
    return float(sum(distances) / len(order))


def _loss(logits: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> float:
    return float(np.sum(np.logaddexp(0, logits) - targets * logits))
