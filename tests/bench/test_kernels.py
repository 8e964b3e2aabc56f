from __future__ import annotations

import numpy as np

from bench.kernels import DEFAULT, made_up, measure_kernels
from models.config import ModelConfig
from serving.kernels import available


def test_every_kernel_is_measured_on_the_same_scores() -> None:
    """All kernels that run here appear, and what they are timed on gives scores that agree and differ by candidate."""
    case = made_up(DEFAULT, 200, 64)
    scores = [each.prepare(case.head, case.sizes, case.folded).score(case.rows) for each in available()]
    assert all(np.abs(each - scores[-1]).max() < 1e-2 for each in scores) and len(set(scores[-1].tolist())) > 100
    found = measure_kernels([20], [8], 1, lambda name: None)
    assert list(found["us"]) == list(found["parts_us"]) == [each.name for each in available()]
    assert all(us > 0 for sizes in found["us"].values() for us in sizes["20x8"].values())


def test_the_measured_model_is_the_default_one() -> None:
    """Sizes that scoring depends on are those of the default model."""
    default = ModelConfig().dimensions
    for name in (
        "signature_bits",
        "vector_dim",
        "bridges",
        "tiers",
        "behaviours",
        "attention",
        "cross_categories",
        "hidden",
    ):
        assert getattr(DEFAULT, name) == getattr(default, name), name
    assert len(DEFAULT.tier_groups) == len(default.tier_groups)
