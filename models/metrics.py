"""How good scores are: AUC, its per-user form GAUC, and the logistic loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["auc", "gauc", "logloss"]

_Float = npt.NDArray[np.float32]


def auc(labels: _Float, scores: _Float) -> float:
    """Chance that a positive scores above a negative, ties half ([n], [n]); nan where either is missing."""
    return gauc(np.zeros(len(labels), dtype=np.int64), labels, scores)


def gauc(groups: npt.NDArray[np.int64], labels: _Float, scores: _Float) -> float:
    """AUC within each group, averaged by the group's number of examples ([n] int64, [n], [n]).

    Groups without a positive or without a negative have no AUC and do not count; nan where that leaves none.
    """
    if not len(labels):
        return float("nan")
    _, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((scores, group))
    group, scores, positive = group[order], scores[order], labels[order] > 0.5
    tie_starts = np.flatnonzero(np.r_[True, (group[1:] != group[:-1]) | (scores[1:] != scores[:-1])])
    tie_sizes = np.diff(np.r_[tie_starts, len(group)])
    places = np.repeat(tie_starts + (tie_sizes + 1) / 2, tie_sizes)  # mean place among all, from 1

    counts = np.bincount(group).astype(np.float64)
    positives = np.bincount(group, weights=positive)
    negatives = counts - positives
    before = np.cumsum(counts) - counts
    rank_sum = np.bincount(group, weights=np.where(positive, places - before[group], 0))
    valid = (positives > 0) & (negatives > 0)
    if not valid.any():
        return float("nan")
    each = (rank_sum - positives * (positives + 1) / 2)[valid] / (positives * negatives)[valid]
    return float(np.average(each, weights=counts[valid]))


def logloss(labels: _Float, logits: _Float) -> float:
    """Mean of -log p(label) for p = sigmoid(logit) ([n], [n]); nan without examples."""
    if not len(labels):
        return float("nan")
    return float(np.mean(np.logaddexp(0, logits.astype(np.float64)) - labels * logits.astype(np.float64)))
