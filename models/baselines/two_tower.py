"""Two towers and a dot product: the pre-ranker that AIF wants to replace."""

from __future__ import annotations

import math

from torch import Tensor, nn

from models.baselines.parts import Baseline
from models.batch import Batch
from models.config import ModelConfig

__all__ = ["TwoTower"]


class TwoTower(Baseline):
    """logit = user . item / sqrt(d) + b(item): user and item never meet before the product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.bias = nn.Linear(config.vector_dim, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        user, item, *_ = self.inputs(batch, self.config.behaviours)
        product = (item @ user.unsqueeze(-1)).squeeze(-1) / math.sqrt(self.config.vector_dim)  # [B, C]
        logits: Tensor = product + self.bias(item).squeeze(-1)
        return logits

    def online_multiply_adds(self) -> int:
        """The dot product; the bias is the item's."""
        return self.config.vector_dim
