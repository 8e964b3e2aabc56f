"""ETA (arXiv 2108.04468): signatures find the behaviours of a long history that attention then looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from models.baselines.parts import Attention, Baseline, BaselineConfig, head
from models.batch import Batch
from models.config import ModelConfig

__all__ = ["Eta", "most_similar"]


class Eta(Baseline):
    """DIN over the `searched` behaviours with the most equal bits of the candidate's signature.

    Signatures are the frozen ones of the item embeddings; ETA itself hashes the learned vectors.
    """

    def __init__(self, config: ModelConfig, sizes: BaselineConfig) -> None:
        super().__init__(config)
        self.sizes = sizes
        self.attention = Attention(config.vector_dim, sizes.attention_hidden)
        self.head = head(4 * config.vector_dim, config.hidden)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        inputs = self.inputs(batch, self.sizes.long_behaviours)
        item = inputs.item
        chosen = most_similar(inputs.signs, inputs.behaviour_signs, inputs.present, self.sizes.searched)  # [B, C, k]
        users = torch.arange(len(item))[:, None, None]
        attended = self.attention(item, inputs.values[users, chosen], inputs.present[users, chosen])  # [B, C, d]
        crossed = torch.cat((inputs.user.unsqueeze(1).expand_as(item), item, attended, attended * item), dim=-1)
        logits: Tensor = self.head(crossed).squeeze(-1)
        return logits

    def online_multiply_adds(self) -> int:
        """One byte operation per 8 bits of every behaviour, attention over those found, the head as in DIN."""
        d, (h1, h2), sizes = self.config.vector_dim, self.config.hidden, self.sizes
        search = sizes.long_behaviours * self.config.signature_bits // 8
        return search + self.attention.multiply_adds(sizes.searched) + 2 * d * h1 + h1 * h2 + h2


def most_similar(signs: Tensor, behaviour_signs: Tensor, present: Tensor, count: int) -> Tensor:
    """Places of the `count` behaviours with the most bits equal to each candidate's, of equal ones the newest.

    signs [B, C, m], behaviour_signs [B, L, m] (zeros where absent), present [B, L] -> [B, C, min(count, L)] int64;
    behaviours without a signature come after those with one, absent ones last.
    """
    bits, length = signs.shape[-1], behaviour_signs.shape[1]
    equal = bits + signs @ behaviour_signs.mT  # [B, C, L], twice the equal bits; `bits` without a signature
    signed = behaviour_signs[..., 0].abs().unsqueeze(1)  # [B, 1, L]
    newest = torch.arange(length, device=signs.device)
    order = torch.where(present.unsqueeze(1) > 0, equal * signed, -1.0) * length - newest
    return order.topk(min(count, length), dim=-1).indices
