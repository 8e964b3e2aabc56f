"""The full interaction ranker: teacher and ceiling, everything that an unhurried ranking stage would compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domain.cross_features import CROSS_FEATURES
from domain.tiers import group_table
from models.baselines.parts import Attention, Baseline, BaselineConfig, head
from models.batch import Batch
from models.config import ModelConfig
from models.similarity import equal_bits, of_category, tier_counts

__all__ = ["Ranker", "similar_values"]


class Ranker(Baseline):
    """Two exact attentions over a long history, products with the item, tiers of similarity over AIF's longer one, and
    what was done in the candidate's category, in a larger network.

    One attention learns its scores (DIN's unit), the other takes the cosine of the exact item embeddings.
    """

    def __init__(self, config: ModelConfig, sizes: BaselineConfig) -> None:
        super().__init__(config)
        self.sizes = sizes
        d = config.vector_dim
        self.attention = Attention(d, sizes.attention_hidden)
        self.sharpness = nn.Parameter(torch.tensor(8.0))  # of softmax(sharpness * cosine)
        self.groups: Tensor
        self.register_buffer("groups", torch.from_numpy(group_table(config.tier_groups)).float(), persistent=False)
        self.head = head(7 * d + config.dimensions.tier_columns + CROSS_FEATURES, sizes.ranker_hidden)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        tiers = self._tiers(batch.newest(max(self.config.long_behaviours, self.sizes.long_behaviours)))
        batch = batch.newest(self.sizes.long_behaviours)
        inputs = self.inputs(batch, self.sizes.long_behaviours)
        item = inputs.item
        user = inputs.user.unsqueeze(1).expand_as(item)  # [B, C, d]
        attended = self.attention(item, inputs.values, inputs.present)  # [B, C, d]
        cosine, known = _cosine(batch)
        similar = similar_values(cosine, known, inputs.values, self.sharpness)  # [B, C, d]
        category = of_category(batch.category[batch.candidates], batch.categories, batch.cross)  # [B, C, X]
        crossed = (user, item, user * item, attended, attended * item, similar, similar * item, tiers, category)
        logits: Tensor = self.head(torch.cat(crossed, dim=-1)).squeeze(-1)
        return logits

    def _tiers(self, batch: Batch) -> Tensor:
        """Tiers of similarity of all behaviours of the batch ([B, C, G * T])."""
        theirs = F.embedding(batch.behaviours, batch.signs) * batch.present.unsqueeze(-1)  # [B, L, m]
        equal = equal_bits(F.embedding(batch.candidates, batch.signs), theirs)  # [B, C, L]
        bits, tiers = self.config.signature_bits, self.config.tiers
        return torch.log1p(tier_counts(equal, batch.actions, self.groups, tiers, bits))

    def online_multiply_adds(self) -> int:
        """Both attentions, a byte operation per 8 bits of every behaviour, the head without its user and item parts."""
        d, (h1, h2), long = self.config.vector_dim, self.sizes.ranker_hidden, self.sizes.long_behaviours
        crossed = 5 * d + self.config.dimensions.tier_columns + CROSS_FEATURES
        compared = max(long, self.config.long_behaviours) * self.config.signature_bits // 8
        similarities = compared + long * (self.config.embedding_dim + d)
        return self.attention.multiply_adds(long) + similarities + crossed * h1 + h1 * h2 + h2


def similar_values(similarity: Tensor, known: Tensor, values: Tensor, sharpness: Tensor) -> Tensor:
    """Values weighted by softmax(sharpness * similarity) over the behaviours whose similarity is known.

    similarity [B, C, L] at most 1, known [B, L] (0 or 1), values [B, L, d] -> [B, C, d]; zeros for a user without any.
    """
    # At most exp(0), so that it stays finite without subtracting a maximum that may not exist.
    weights = torch.exp(sharpness * (similarity - 1)) * known.unsqueeze(1)  # [B, C, L]
    return torch.as_tensor(weights @ values / weights.sum(-1, keepdim=True).clamp(min=1e-30))


def _cosine(batch: Batch) -> tuple[Tensor, Tensor]:
    """Cosine of the embeddings of candidates and behaviours [B, C, L], and which behaviours have one [B, L]."""
    unit = F.normalize(batch.embedding, dim=-1)  # [U, embedding_dim], zeros where absent
    theirs = F.embedding(batch.behaviours, unit)  # [B, L, embedding_dim]
    known = batch.present * (theirs != 0).any(-1)  # [B, L]
    return F.embedding(batch.candidates, unit) @ theirs.mT, known
