"""DIN (arXiv 1706.06978): attention of the candidate over the exact vectors of the newest behaviours."""

from __future__ import annotations

import torch
from torch import Tensor

from models.baselines.parts import Attention, Baseline, BaselineConfig, head
from models.batch import Batch
from models.config import ModelConfig

__all__ = ["Din"]


class Din(Baseline):
    """logit = network(user, item, attended behaviours, their product with the item)."""

    def __init__(self, config: ModelConfig, sizes: BaselineConfig) -> None:
        super().__init__(config)
        self.attention = Attention(config.vector_dim, sizes.attention_hidden)
        self.head = head(4 * config.vector_dim, config.hidden)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        user, item, values, present, *_ = self.inputs(batch, self.config.behaviours)
        attended = self.attention(item, values, present)  # [B, C, d]
        crossed = torch.cat((user.unsqueeze(1).expand_as(item), item, attended, attended * item), dim=-1)
        logits: Tensor = self.head(crossed).squeeze(-1)
        return logits

    def online_multiply_adds(self) -> int:
        """Attention, and the head without its user and item parts."""
        d, (h1, h2) = self.config.vector_dim, self.config.hidden
        return self.attention.multiply_adds(self.config.behaviours) + 2 * d * h1 + h1 * h2 + h2
