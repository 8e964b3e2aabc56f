"""What each term of the first layer contributes to a score, by leaving it out.

The network is h2(h1(sum of terms)) with two rectified layers: no division of a logit into parts adds up. A term is said
to contribute

    logit of all terms - logit of all terms but this one

which answers "what if the model had not known this?". Contributions do not sum to the logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions

__all__ = ["leave_one_out", "logits", "term_names"]

_Any = npt.NDArray[Any]
_Float = npt.NDArray[np.float64]


def term_names(dims: Dimensions) -> list[str]:
    """What the terms of a model are called, in the order in which they are given everywhere."""
    bridges = [f"bridge_{number}" for number in range(dims.bridges)]
    return ["item_vector", "user", *bridges, "linear_din", *map(_tiers, dims.tier_groups), "attention", "category"]


def _tiers(actions: Sequence[str]) -> str:
    first, *others = actions
    return f"tiers_{first}" + (f"_and_{len(others)}_more" if others else "")


def logits(
    first: npt.NDArray[Any], w2: npt.NDArray[Any], b2: npt.NDArray[Any], w3: npt.NDArray[Any], b3: Any
) -> _Float:
    """Logits of first-layer sums ([..., h1] -> [...] float64)."""
    second = np.maximum(np.asarray(first, dtype=np.float64), 0) @ w2.astype(np.float64) + b2
    return np.asarray(np.maximum(second, 0) @ w3.astype(np.float64) + np.asarray(b3).item())


def leave_one_out(terms: _Any, w2: _Any, b2: _Any, w3: _Any, b3: Any) -> tuple[_Float, _Float]:
    """The logit of each candidate and the contribution of each of its terms ([n, t, h1] -> [n], [n, t] float64)."""
    exact = np.asarray(terms, dtype=np.float64)
    first = exact.sum(axis=1)  # [n, h1]
    whole = logits(first, w2, b2, w3, b3)
    without = logits(first[:, None, :] - exact, w2, b2, w3, b3)
    return whole, whole[:, None] - without
