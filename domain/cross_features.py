"""SIM's hard search: what a user did in each of the categories that the user meets most.

Candidates are not known when the user phase runs, so the features are made for the top categories of the user's own
behaviours; a candidate then finds the row of its category, or none. Training and serving call the same function.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.records import ACTIONS

__all__ = ["CROSS_FEATURES", "cross_features"]

_Int = npt.NDArray[np.int64]
_Float = npt.NDArray[np.float32]

#: Of each action log1p of its count in the category, then 1 / (1 + age) of the newest one, 0 for none.
CROSS_FEATURES: Final = 2 * len(ACTIONS)


def cross_features(
    categories: _Int, actions: _Int, ages: _Float, present: npt.NDArray[np.bool_], most: int
) -> tuple[_Int, _Float]:
    """The users' top categories and what they did in them.

    categories [B, L] buckets (0 is none), actions [B, L] codes, ages [B, L] log1p hours, present [B, L] ->
    buckets [B, most] (0 behind a user's last) and features [B, most, CROSS_FEATURES] (zeros there). Categories with
    more behaviours come first, of equally many the one with the newer (the earlier place).
    """
    users = len(categories)
    top = np.zeros((users, most), dtype=np.int64)
    features = np.zeros((users, most, CROSS_FEATURES), dtype=np.float32)
    user, place = np.nonzero(present & (categories > 0))
    if not len(user) or not most:
        return top, features
    bucket, action = categories[user, place], actions[user, place]
    # One number for (user, category); `first` is the newest behaviour of each, because places ascend within a user.
    span = int(bucket.max()) + 1
    pairs, first, pair = np.unique(user * span + bucket, return_index=True, return_inverse=True)
    counts = np.bincount(pair * len(ACTIONS) + action, minlength=len(pairs) * len(ACTIONS))
    counts = counts.reshape(len(pairs), len(ACTIONS))
    recency = np.zeros((len(pairs), len(ACTIONS)), dtype=np.float32)
    np.maximum.at(recency, (pair, action), 1 / (1 + ages[user, place]))

    owner, total = pairs // span, counts.sum(1)
    order = np.lexsort((place[first], -total, owner))
    owner = owner[order]
    rank = np.arange(len(order)) - np.searchsorted(owner, owner)  # place among the user's own
    kept = rank < most
    owner, rank, order = owner[kept], rank[kept], order[kept]
    top[owner, rank] = pairs[order] % span
    features[owner, rank, : len(ACTIONS)] = np.log1p(counts[order])
    features[owner, rank, len(ACTIONS) :] = recency[order]
    return top, features
