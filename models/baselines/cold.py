"""A shallow cross model in the manner of COLD (arXiv 2007.16122): both vectors and their product in a small network."""

from __future__ import annotations

import torch
from torch import Tensor

from models.baselines.parts import Baseline, head
from models.batch import Batch
from models.config import ModelConfig

__all__ = ["Cold"]


class Cold(Baseline):
    """logit = network(user, item, user * item). COLD's choice of features by a squeeze-excite block is left out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.head = head(3 * config.vector_dim, config.hidden)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        user, item, *_ = self.inputs(batch, self.config.behaviours)
        user = user.unsqueeze(1).expand_as(item)  # [B, C, d]
        logits: Tensor = self.head(torch.cat((user, item, user * item), dim=-1)).squeeze(-1)
        return logits

    def online_multiply_adds(self) -> int:
        """The product's part of the first layer folds into the item's, once per request; then the rest of the head."""
        h1, h2 = self.config.hidden
        return self.config.vector_dim * h1 + h1 * h2 + h2
