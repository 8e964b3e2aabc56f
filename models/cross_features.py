"""Two readings of a user's behaviours per candidate that do not fold into the user phase: options for comparison.

`similar_values` is attention whose scores are given similarities: DIN over signatures with softmax weights, beside the
linear form that is served, and the full ranker's over exact embeddings. `hard_search` is
SIM's hard search: what the user did lately in the candidate's own category. To serve hard search, the user phase would
fold it per category into a row of the head's first layer (`hard_search(...) @ weight`, once per request and category
that the user has), and the scorer would add the row that the candidate's record names by its category.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from schemas.records import ACTIONS

__all__ = ["HARD_SEARCH_COLUMNS", "hard_search", "similar_values"]

#: Behaviours of the category by action, and how recent the newest is.
HARD_SEARCH_COLUMNS: Final = len(ACTIONS) + 1


def similar_values(similarity: Tensor, known: Tensor, values: Tensor, sharpness: Tensor) -> Tensor:
    """Values weighted by softmax(sharpness * similarity) over the behaviours whose similarity is known.

    similarity [B, C, L] at most 1, known [B, L] (0 or 1), values [B, L, d] -> [B, C, d]; zeros for a user without any.
    """
    # At most exp(0), so that it stays finite without subtracting a maximum that may not exist.
    weights = torch.exp(sharpness * (similarity - 1)) * known.unsqueeze(1)  # [B, C, L]
    return torch.as_tensor(weights @ values / weights.sum(-1, keepdim=True).clamp(min=1e-30))


def hard_search(categories: Tensor, theirs: Tensor, actions: Tensor, ages: Tensor, present: Tensor) -> Tensor:
    """Cross features of candidates with the behaviours of their own category.

    categories [B, C] buckets (0 is none), theirs, actions [B, L] int64, ages [B, L] log1p hours, present [B, L] ->
    [B, C, HARD_SEARCH_COLUMNS]: log1p of the counts by action, and 1 / (1 + age) of the newest; zeros for none.
    """
    same = (categories.unsqueeze(-1) == theirs.unsqueeze(1)) & (categories > 0).unsqueeze(-1)  # [B, C, L]
    matched = same * present.unsqueeze(1)  # [B, C, L]
    counts = matched @ F.one_hot(actions, len(ACTIONS)).to(matched.dtype)  # [B, C, actions]
    recency = (matched / (1 + ages).unsqueeze(1)).amax(-1, keepdim=True)  # [B, C, 1]
    return torch.cat((torch.log1p(counts), recency), dim=-1)
