"""Rows of item_activity as readers see them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from domain.activity_row import ACTIVITY_FEATURES, ACTIVITY_WINDOWS, FINGERPRINT, Snapshots, snapshot_features
from schemas.errors import Corrupt


def test_windows_and_features() -> None:
    """Activity is counted over an hour, a day and a week; a feature is log1p of a count, rounded once."""
    assert [window.name for window in ACTIVITY_WINDOWS] == ["1h", "24h", "7d"]
    counts = np.arange(2 * ACTIVITY_FEATURES).reshape(2, -1)
    features = snapshot_features(counts)
    assert features.dtype == np.float32 and features.shape == counts.shape
    assert features.ravel().tolist() == [np.float32(math.log1p(count)) for count in counts.ravel().tolist()]


def test_snapshots_are_taken_by_place() -> None:
    """`take` keeps times and features together."""
    rows = [
        {"fingerprint": FINGERPRINT, "snapshot_ms": n, "snapshot": np.full(ACTIVITY_FEATURES, n, "<f4").tobytes()}
        for n in range(3)
    ]
    some = Snapshots.of(rows).take([2, 0])
    assert some.made_ms.tolist() == [2, 0] and some.features[:, 5].tolist() == [2.0, 0.0] and len(some) == 2


def test_rows_of_another_layout_are_not_read() -> None:
    """A snapshot of another fingerprint raises Corrupt, naming both."""
    row = {"fingerprint": 1, "snapshot_ms": 0, "snapshot": b""}
    with pytest.raises(Corrupt, match=f"fingerprint 1, this build {FINGERPRINT}"):
        Snapshots.of([None, row])
