"""What the learned baselines share: AIF's item and user encoders in full precision, attention, and a plain head.

Symbols in shapes are those of models/aif.py. A baseline states its online cost per candidate as a serving system would
pay it: what depends on the item alone counts as computed nearline, what depends on the user alone as computed once per
request, and both as free. That favours the baselines, never AIF.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.aif import ItemEncoder, UserEncoder
from models.batch import Batch
from models.config import ModelConfig

__all__ = ["Attention", "Baseline", "BaselineConfig", "Inputs", "head"]


@dataclass(frozen=True)
class BaselineConfig:
    """Sizes that only baselines have; the others are those of ModelConfig."""

    long_behaviours: int = 64  #: that ETA searches and the full ranker attends to
    attention_hidden: int = 32  #: of the activation unit
    searched: int = 16  #: behaviours that ETA keeps by signature
    ranker_hidden: tuple[int, int] = (256, 128)  #: of the full ranker's head


class Inputs(NamedTuple):
    """A batch, encoded."""

    user: Tensor  #: [B, d]
    item: Tensor  #: [B, C, d]
    values: Tensor  #: [B, L, d] behaviours with action and age, zeros where absent
    present: Tensor  #: [B, L]
    signs: Tensor  #: [B, C, m]
    behaviour_signs: Tensor  #: [B, L, m]


class Baseline(nn.Module):
    """The encoders that all learned baselines have; those of AIF, without bridges and without rounding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.item = ItemEncoder(config)
        self.user = UserEncoder(config)

    def inputs(self, batch: Batch, attended: int) -> Inputs:
        """The batch encoded: the user vector of `config.behaviours`, and `attended` behaviours to look at."""
        batch = batch.newest(max(attended, self.config.behaviours))
        vectors = self.item.vector(*batch.items)  # [U, d]
        known = batch.present.unsqueeze(-1)  # [B, L, 1]
        theirs = F.embedding(batch.behaviours, vectors) * known  # [B, L, d]
        values = self.user.values(theirs, batch.actions, batch.ages, batch.present)
        short = slice(self.config.behaviours)
        user, _ = self.user.encode(batch.windows, values[:, short], batch.present[:, short])
        return Inputs(
            user,
            F.embedding(batch.candidates, vectors),
            values[:, :attended],
            batch.present[:, :attended],
            F.embedding(batch.candidates, batch.signs),
            (F.embedding(batch.behaviours, batch.signs) * known)[:, :attended],
        )


class Attention(nn.Module):
    """DIN's activation unit: every behaviour is weighted by a small network of it, the candidate and their product.

    The scaled dot product is added to its output, and weights are normalised by softmax over the behaviours that are
    there and one learned row that stands for none of them.
    """

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.d, self.hidden = d, hidden
        self.nothing = nn.Parameter(0.1 * torch.randn(d))
        self.of_item = nn.Linear(d, hidden)
        self.of_behaviour = nn.Linear(d, hidden, bias=False)
        self.of_product = nn.Parameter(torch.randn(d, hidden) / math.sqrt(d))
        self.score = nn.Linear(hidden, 1)

    def forward(self, item: Tensor, values: Tensor, present: Tensor) -> Tensor:
        """item [B, C, d], values [B, L, d], present [B, L] -> [B, C, d]; or values [B, C, L, d], present [B, C, L]."""
        if values.ndim == 3:
            values, present = values.unsqueeze(1), present.unsqueeze(1)  # [B, 1, L, d], [B, 1, L]
        rows = torch.cat((self.nothing.expand(*values.shape[:2], 1, -1), values), dim=2)  # [B, 1|C, L+1, d]
        there = F.pad(present, (1, 0), value=1.0)  # [B, 1|C, L+1]
        # (q * k) W = k (diag(q) W): per candidate one [d, hidden] matrix instead of a product per pair.
        product = rows @ (item.unsqueeze(-1) * self.of_product)  # [B, C, L+1, hidden]
        hidden = F.relu(product + self.of_item(item).unsqueeze(2) + self.of_behaviour(rows))  # [B, C, L+1, hidden]
        dot = (rows @ item.unsqueeze(-1)).squeeze(-1) / math.sqrt(self.d)  # [B, C, L+1]
        scores = self.score(hidden).squeeze(-1) + dot  # [B, C, L+1]
        weights = torch.softmax(torch.where(there > 0, scores, -torch.inf), dim=-1)  # [B, C, L+1]
        return torch.as_tensor((weights.unsqueeze(2) @ rows).squeeze(2))  # [B, C, d]

    def multiply_adds(self, behaviours: int) -> int:
        """Per candidate: of every behaviour the product's projection, the score, the dot product and the sum."""
        return behaviours * (self.d * self.hidden + self.hidden + 2 * self.d) + self.d * self.hidden


def head(inputs: int, hidden: tuple[int, int]) -> nn.Sequential:
    """[..., inputs] -> [..., 1], with AIF's two hidden layers."""
    first, second = hidden
    return nn.Sequential(nn.Linear(inputs, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1))
