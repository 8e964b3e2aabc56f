from __future__ import annotations

import torch

from models.baselines.din import Din
from models.baselines.parts import BaselineConfig
from models.batch import Batch
from models.config import ModelConfig


def test_only_the_newest_behaviours_are_read(batch: Batch, config: ModelConfig, sizes: BaselineConfig) -> None:
    """What lies beyond the newest behaviours of AIF's own length does not reach DIN."""
    model = Din(config, sizes)
    with torch.no_grad():
        torch.testing.assert_close(model(batch.newest(config.behaviours)), model(batch))
    pairs = config.behaviours * (16 * 8 + 8 + 2 * 16) + 16 * 8
    assert model.online_multiply_adds() == pairs + 2 * 16 * 32 + 32 * 16 + 16
