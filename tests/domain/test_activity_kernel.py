"""The compiled loop of item activity on its own: what the fold's tests against the oracle cannot see."""

from __future__ import annotations

import numpy as np

from domain.activity_kernel import NEVER, fold_activity
from domain.activity_row import ACTIVITY_FEATURES

NOW_MS = 1_600_000_000_000


def test_late_events_leave_a_row_as_it_was() -> None:
    """A row whose events are all late has none counted, no snapshot, and its tiles unchanged."""
    first, times, actions = np.array([0, 1, 3]), np.array([NOW_MS, 0, 1]), np.zeros(3, dtype="u1")
    newest, snapshot_ms = np.array([NEVER, NOW_MS]), np.array([NEVER, NOW_MS])
    cells, counts = np.array([300, 301], dtype="u2"), np.array([4, 5], dtype="u4")
    counted, ends = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    by, made_ms, made = np.empty(3, np.int64), np.empty(3, np.int64), np.empty((3, ACTIVITY_FEATURES), np.int64)
    out = np.empty(20, dtype="u2"), np.empty(20, dtype="u4")
    taken = fold_activity(
        first, times, actions, 1, newest, snapshot_ms, (cells, counts), np.array([0, 0, 2]), counted, by, made_ms, made,
        out, ends,
    )  # fmt: skip
    assert (taken, by[0], made_ms[0], made[0].sum()) == (1, 0, NOW_MS, 3)
    assert (counted.tolist(), newest.tolist(), ends.tolist()) == ([1, 0], [NOW_MS, NOW_MS], [3, 5])
    assert (out[0][3:5].tolist(), out[1][3:5].tolist()) == ([300, 301], [4, 5])
