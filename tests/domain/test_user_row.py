"""Rows of another layout or other declarations are never misread."""

from __future__ import annotations

import numpy as np
import pytest
from planted import user_event

from domain.feature_plan import Plan
from domain.feature_values import feature_values
from domain.features import FEATURES, Feature
from domain.user_row import FINGERPRINT, behaviours_of, check_rows, window_counts
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.errors import Corrupt

HEAD = codec("user_head").decode(fold({}, EventBatch.of([0], [user_event(1, 1, 7, 1_700_000_000_000)]), 1).heads[1])


def test_another_layout_is_refused_by_every_reader() -> None:
    """A row of another layout is Corrupt, whoever reads it."""
    other = {**HEAD, "fingerprint": FINGERPRINT + 1}
    for read in (window_counts, feature_values):
        with pytest.raises(Corrupt, match="fingerprint"):
            read([other], np.array([0]))
    with pytest.raises(Corrupt, match="fingerprint"):
        behaviours_of(other)


def test_other_declarations_hide_the_declared_features_alone() -> None:
    """Windows and behaviours, which the model reads, do not depend on what else is declared; features do."""
    plan = Plan.of([*FEATURES, Feature("total", "sum", ("like",), "x", "", 3_600_000)])
    check_rows([HEAD, None])
    assert window_counts([HEAD], np.array([HEAD["newest_event_time_ms"]])).sum() == 4
    with pytest.raises(Corrupt, match="migrated"):
        feature_values([HEAD], np.array([0]), plan)
