from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.measured import Data
from experiments.served_heads import with_kernel
from models.aif import AIF
from models.config import ModelConfig
from serving.kernels import ROUNDING, available


@pytest.mark.parametrize("kernel", available(), ids=lambda kernel: kernel.name)
def test_a_kernel_gives_the_scores_of_the_head_it_replaces(data: Data, small: ModelConfig, kernel) -> None:
    """Every part of the head is handed over: chances are the trained model's but for what the kernel rounds."""
    torch.manual_seed(1)
    model = AIF(replace(small, tier_groups=(("click",), ("impression",)), cross_categories=4)).eval()
    with torch.no_grad():
        model.head.tier_weight.mul_(5)
    own, served = (1 / (1 + np.exp(-data.held.scores(each))) for each in (model, with_kernel(model, kernel)))
    assert own.std() > 1e-3
    np.testing.assert_allclose(served, own, atol=ROUNDING[kernel.precision])


def test_the_model_itself_keeps_its_head(data: Data, small: ModelConfig) -> None:
    """What a kernel computes is a copy's affair."""
    model = AIF(small).eval()
    before = data.held.scores(model)
    with_kernel(model, available()[0])
    assert np.array_equal(data.held.scores(model), before)
