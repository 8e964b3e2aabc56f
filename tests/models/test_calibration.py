from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.aif import Head
from models.calibration import Calibration, calibration_error, fold_calibration, platt
from models.config import ModelConfig
from models.metrics import auc, logloss


def _sample(slope: float, offset: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels whose chance is sigmoid(slope * logit + offset)."""
    random = np.random.default_rng(3)
    logits = random.normal(0, 2, count).astype(np.float32)
    chances = 1 / (1 + np.exp(-(slope * logits + offset)))
    return (random.random(count) < chances).astype(np.float32), logits


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.3, -2.0), (2.5, 1.0)])
def test_the_true_slope_and_offset_are_found(slope: float, offset: float) -> None:
    """Of labels drawn with known chances, both numbers come back."""
    labels, logits = _sample(slope, offset)
    found = platt(labels, logits)
    assert found is not None
    assert found.slope == pytest.approx(slope, rel=0.06)
    assert found.offset == pytest.approx(offset, abs=0.06)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(-60, 60, width=32)), min_size=2, max_size=40))
def test_it_never_makes_anything_worse(rows: list[tuple[bool, float]]) -> None:
    """Whatever the logits, separable ones too: the slope is positive and finite, the order stays, or there is none."""
    labels = np.array([label for label, _ in rows], dtype=np.float32)
    logits = np.array([logit for _, logit in rows], dtype=np.float32)
    found = platt(labels, logits)
    if found is None:
        assert labels.min() == labels.max() or auc(labels, logits) <= 0.75
        return
    assert found.slope > 0 and np.isfinite([found.slope, found.offset]).all()
    smoothed = np.where(labels > 0, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((1 - labels).sum() + 2))
    before = logloss(smoothed.astype(np.float32), logits)
    assert logloss(smoothed.astype(np.float32), found.apply(logits)) <= before + 1e-5


def test_useless_models_are_left_alone() -> None:
    """One kind of label, or scores that order the wrong way round, give no calibration."""
    logits = np.arange(6, dtype=np.float32)
    assert platt(np.ones(6, dtype=np.float32), logits) is None
    assert platt((logits < 3).astype(np.float32), logits) is None


def test_the_head_folds_it() -> None:
    """After folding, the head's logits are slope times the old ones plus the offset."""
    config = ModelConfig(vector_dim=8, bridges=2, tiers=0, hidden=(6, 4))
    head = Head(config)
    hidden = torch.randn(50, 4)
    with torch.no_grad():
        before = head.third(hidden)
        fold_calibration(head, Calibration(0.7, -1.5))
        torch.testing.assert_close(head.third(hidden), 0.7 * before - 1.5)


def test_error_is_the_distance_from_the_share_of_positives() -> None:
    """Calibrated chances have almost none; chances that are all too high by a fifth have a fifth."""
    labels, logits = _sample(1, 0)
    assert calibration_error(labels, logits) < 0.02
    certain = np.zeros(1000, dtype=np.float32)  # chance one half
    wanted = (np.arange(1000) % 10 < 3).astype(np.float32)
    assert calibration_error(wanted, certain) == pytest.approx(0.2, abs=0.01)
    assert np.isnan(calibration_error(certain[:0], certain[:0]))
