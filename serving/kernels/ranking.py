"""The order of scored candidates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.kernels.head import Floats

__all__ = ["rank"]


def rank(
    scores: Floats, ids: npt.NDArray[np.int64], servable: npt.NDArray[np.bool_], top_k: int
) -> npt.NDArray[np.int64]:
    """Indices of the best `top_k` candidates ([k] int64): servable ones first, score descending, item id ascending.

    Complete and stable: equal inputs give equal answers whatever order the candidates came in.
    """
    order_by = np.where(servable, -scores, np.float32(np.inf))
    chosen = np.arange(len(scores))
    if top_k < len(scores):
        # Everything up to the k-th value, ties included: which ties get in is for the item id to say.
        worst = np.partition(order_by, top_k - 1)[top_k - 1]
        chosen = np.flatnonzero(order_by <= worst)
    best = order_by[chosen]
    order = np.argsort(best)
    ordered = best[order]
    if (ordered[1:] == ordered[:-1]).any():  # sorting by two keys takes several times as long, so only ties pay for it
        order = np.lexsort((ids[chosen], best))
    return chosen[order][:top_k]
