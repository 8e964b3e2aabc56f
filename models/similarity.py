"""How a candidate is compared with a user's past: equal bits, tiers of similarity, and the row of its own category.

Shapes are those of models/aif.py. The plain oracle of all three is models/reference.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["equal_bits", "of_category", "tier_counts"]


def equal_bits(signs: Tensor, behaviour_signs: Tensor) -> Tensor:
    """Equal bits of every candidate and behaviour ([B, C, m], [B, L, m] -> [B, C, L] int64), -1 where one has none."""
    equal = (signs.shape[-1] + signs @ behaviour_signs.mT).long() // 2
    both = signs[..., :1] * behaviour_signs[..., 0].unsqueeze(1)  # [B, C, L], 0 where one has no signature
    return torch.where(both != 0, equal, -1)


def tier_counts(equal: Tensor, actions: Tensor, groups: Tensor, tiers: int, bits: int) -> Tensor:
    """SimTier: behaviours in each tier of similarity to a candidate, by group of actions.

    equal [B, C, L] bits of `bits` (-1 for a pair without signatures), actions [B, L] codes, groups [actions, G] of 0
    and 1 -> [B, C, G * T], group after group. Tier t holds similarities in [t/T, (t+1)/T), the last one 1.
    """
    shape = *equal.shape[:2], groups.shape[1]
    if not tiers:
        return groups.new_zeros(*shape[:2], 0)
    member = F.embedding(actions, groups)  # [B, L, G]
    tier = torch.where(equal < 0, tiers, (equal * tiers // bits).clamp(max=tiers - 1))  # [B, C, L], T is none
    # Each behaviour is added to its own counter: comparing all of them with every tier costs T times as much.
    counts = groups.new_zeros(*shape, tiers + 1)
    for group in range(groups.shape[1]):
        counts[:, :, group].scatter_add_(2, tier, member[..., group].unsqueeze(1).expand_as(tier))
    return counts[..., :tiers].flatten(-2)


def of_category(category: Tensor, categories: Tensor, rows: Tensor) -> Tensor:
    """The row of each candidate's own category ([B, C], [B, K], [B, K, h] -> [B, C, h]), zeros where there is none."""
    own = (category.unsqueeze(-1) == categories.unsqueeze(1)) & (category > 0).unsqueeze(-1)  # [B, C, K]
    return own.to(rows.dtype) @ rows
