"""How good scores are: AUC, its per-user form GAUC, the logistic loss, and the share of a best list that is kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["auc", "gauc", "group_auc", "hit_rate", "logloss"]

_Float = npt.NDArray[np.float32]


def auc(labels: _Float, scores: _Float) -> float:
    """Chance that a positive scores above a negative, ties half ([n], [n]); nan where either is missing."""
    return gauc(np.zeros(len(labels), dtype=np.int64), labels, scores)


def gauc(groups: npt.NDArray[np.int64], labels: _Float, scores: _Float) -> float:
    """AUC within each group, averaged by the group's number of examples ([n] int64, [n], [n]).

    Groups without a positive or without a negative have no AUC and do not count; nan where that leaves none.
    """
    _, each, counts = group_auc(groups, labels, scores)
    return float(np.average(each, weights=counts)) if len(each) else float("nan")


def group_auc(
    groups: npt.NDArray[np.int64], labels: _Float, scores: _Float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The groups that have a positive and a negative, ascending, with AUC and number of examples of each."""
    if not len(labels):
        return np.empty(0, dtype=np.int64), np.empty(0), np.empty(0)
    ids, group = np.unique(groups, return_inverse=True)
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
    each = (rank_sum - positives * (positives + 1) / 2)[valid] / (positives * negatives)[valid]
    return ids[valid], each, counts[valid]


def hit_rate(wanted: npt.NDArray[np.bool_], scores: _Float, count: int) -> float:
    """Share of the wanted candidates that are among the `count` highest scores, of equal ones the first ([n], [n]).

    Of more than `count` wanted ones only `count` can be there, and the share is of `count`. nan where none is wanted.
    """
    total = min(int(wanted.sum()), count)
    if not total:
        return float("nan")
    kept = np.argsort(-scores, kind="stable")[:count]
    return float(wanted[kept].sum() / total)


def logloss(labels: _Float, logits: _Float) -> float:
    """Mean of -log p(label) for p = sigmoid(logit) ([n], [n]); nan without examples."""
    if not len(labels):
        return float("nan")
    return float(np.mean(np.logaddexp(0, logits.astype(np.float64)) - labels * logits.astype(np.float64)))
