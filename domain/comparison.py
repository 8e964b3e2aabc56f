"""Two versions' scores of one request's candidates, compared. Pure.

What is compared, and what the answer is where there is nothing to compare:

- correlation, drift and shift are over the candidates of which both versions have a row. Fewer than two of them are not
  compared at all: an order needs two.
- Equal scores share the mean of their ranks. Scores that are all equal order nothing: where both versions' are, the
  correlation is 1, where one's are, 0.
- overlap is of the rankings as they would be answered, so a candidate without a row counts as it is ranked: last. The
  top k is the request's, 100 at most, and never more than half of the candidates compared: of a request for nearly all
  of its candidates the overlap would be 1 whatever the scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_TOP_K", "Comparison", "Scored", "average_ranks", "compared", "spearman"]

#: Of a ranking, no more than its best so many are compared.
MOST_TOP_K: Final = 100

_Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Scored:
    """What one version makes of a request's candidates."""

    scores: _Floats  #: [n]
    known: npt.NDArray[np.bool_]  #: [n] the version has a servable row of it
    best: npt.NDArray[np.int64]  #: [>= min(n, top k)] indices of candidates, best first


@dataclass(frozen=True)
class Comparison:
    """Another version beside the live one."""

    overlap: float  #: share of the live top k that the other's holds, of 1
    correlation: float  #: Spearman's, -1 to 1
    drift: float  #: mean of |score - live score|
    shift: float  #: mean of score - live score


def compared(live: Scored, other: Scored, top_k: int) -> Comparison | None:
    """Compare two versions' scores of the same candidates; None where they have fewer than two in common."""
    both = live.known & other.known
    count = int(np.count_nonzero(both))
    if count < 2:
        return None
    one, two = live.scores[both].astype(np.float64), other.scores[both].astype(np.float64)
    k = min(top_k, MOST_TOP_K, (count + 1) // 2)
    return Comparison(
        overlap=len(np.intersect1d(live.best[:k], other.best[:k], assume_unique=True)) / k,
        correlation=spearman(one, two),
        drift=float(np.abs(two - one).mean()),
        shift=float((two - one).mean()),
    )


def spearman(one: _Floats, two: _Floats) -> float:
    """Spearman's rank correlation of two lists of scores ([n], n >= 2): Pearson's of their average ranks."""
    first, second = average_ranks(one), average_ranks(two)
    middle = (len(one) - 1) / 2  # the mean of average ranks, whatever the ties
    first, second = first - middle, second - middle
    norms = float(first @ first) * float(second @ second)
    if norms == 0.0:
        return float(not first.any() and not second.any())
    return min(1.0, max(-1.0, float(first @ second) / math.sqrt(norms)))


def average_ranks(values: _Floats) -> npt.NDArray[np.float64]:
    """The place of each value among all, from 0 up; equal ones share the mean of their places ([n] -> [n])."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return np.asarray((ends - (sizes + 1) / 2)[group], dtype=np.float64)
