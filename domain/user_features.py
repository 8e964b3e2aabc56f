"""What the user phase reads of a user's row, as arrays: used by serving per request and by tests against training.

Training computes the same arrays from the whole log at once (models/history.py) with `log_counts` and `log_hours` from
here; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.user_row import window_counts
from schemas.records import UserHead

__all__ = ["UserInputs", "log_counts", "log_hours", "user_inputs"]

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class UserInputs:
    """User-side model inputs of B users; item vectors and signatures of the behaviours are the caller's to look up."""

    windows: npt.NDArray[np.float32]  #: [B, windows * actions], log1p of counts
    item_ids: npt.NDArray[np.int64]  #: [B, L] newest first; 0 where absent
    actions: npt.NDArray[np.int64]  #: [B, L] action codes; 0 where absent
    ages: npt.NDArray[np.float32]  #: [B, L] log1p of hours before the user's time; 0 where absent
    present: npt.NDArray[np.bool_]  #: [B, L]

    def __len__(self) -> int:
        return len(self.windows)


def user_inputs(
    heads: Sequence[UserHead | None], behaviours: Sequence[npt.NDArray[Any]], at_ms: npt.NDArray[np.int64],
    dims: Dimensions,
) -> UserInputs:  # fmt: skip
    """Model inputs of users at their own times ([B] int64 ms); a head of None is a user without a row.

    `behaviours` are each user's, newest in log order first (BEHAVIOUR_DTYPE, any number). Those newer than the user's
    time do not exist yet; of the others the newest `dims.long_behaviours` enter. L is the most that any of the users
    has, and at least `dims.behaviours`.
    """
    known = [
        each[each["event_time_ms"] <= at][: dims.long_behaviours]
        for each, at in zip(behaviours, at_ms.tolist(), strict=True)
    ]
    shape = len(heads), max([dims.behaviours, *map(len, known)])
    item_ids, times = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    actions, present = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    for user, each in enumerate(known):
        count = len(each)
        item_ids[user, :count] = each["item_id"]
        times[user, :count] = each["event_time_ms"]
        actions[user, :count] = each["action"]
        present[user, :count] = True
    ages = np.where(present, log_hours(at_ms[:, None] - times), np.float32(0))
    return UserInputs(log_counts(window_counts(heads, at_ms)), item_ids, actions, ages, present)


def log_counts(counts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Window features of counts ([B, windows, actions] float32 -> [B, windows * actions] float32)."""
    return np.log1p(counts.reshape(len(counts), -1), dtype=np.float32)


def log_hours(elapsed_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Ages of times in the past ([...] int64 ms >= 0 -> [...] float32)."""
    return np.log1p(elapsed_ms / _HOUR_MS).astype(np.float32)
