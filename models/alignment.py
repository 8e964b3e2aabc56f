"""Alignment to the ranker's order: a student learns which of two candidates the teacher prefers, not how much.

After COPR (arXiv 2306.03516), with chances in the place of eCPM. The teacher orders a list of candidates of a user; the
list is cut into equal chunks and one candidate is drawn of each, so that a pair always differs by a chunk at least and
never by the teacher's noise alone. Every pair adds the logistic loss of the student's difference, weighted by what
exchanging the two in the student's present order would change in NDCG. Gains are linear in the chunk, as powers of two
would leave the lower chunks without a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.batch import Batch
from models.device import CPU
from models.examples import Batches, Examples
from schemas.errors import BadInput

__all__ = ["Alignment", "Lists", "drawn_lists", "rank_loss"]


@dataclass(frozen=True)
class Alignment:
    """A trained teacher, and how much of its order is taught in every step. Raises BadInput where sizes cannot be."""

    teacher: nn.Module
    weight: float = 1.0  #: of the rank loss beside the loss of the labels
    users: int = 16  #: users of a step whose lists are ordered
    candidates: int = 64  #: of each list, drawn as negatives are
    chunks: int = 8  #: of each list; as many candidates of it are compared in pairs

    def __post_init__(self) -> None:
        if not 2 <= self.chunks <= self.candidates or self.users < 1 or not self.weight > 0:
            raise BadInput(
                f"alignment needs 2 <= chunks <= candidates, users >= 1 and weight > 0, not chunks {self.chunks}, "
                f"candidates {self.candidates}, users {self.users}, weight {self.weight}"
            )


@dataclass(frozen=True)
class Lists:
    """Lists of candidates, and which of each are compared."""

    batch: Batch
    chosen: Tensor  #: [B, K] int64 places in the batch's candidates, the teacher's favourite first
    grades: Tensor  #: [B, K] float32 gains; 0 where there is no candidate to compare

    def loss(self, logits: Tensor) -> Tensor:
        """The rank loss of a student's logits of the batch ([B, C])."""
        return rank_loss(logits.gather(1, self.chosen), self.grades)


def drawn_lists(
    batches: Batches, known: Examples, alignment: Alignment, generator: np.random.Generator, device: torch.device = CPU
) -> Lists:
    """Candidates for some of the users of these examples, ordered by the teacher, which is on `device`, into chunks.

    A user that has fewer usable candidates than chunks (they had lately what was drawn) is compared by none.
    """
    some = np.sort(generator.choice(len(known), min(alignment.users, len(known)), replace=False))
    batch = batches.batch(known.take(some), generator, drawn=alignment.candidates).to(device)
    # The example's own item says what the user did, not what the teacher thinks: lists are of drawn candidates.
    usable = batch.weights[:, 1:] > 0  # [B, M]
    with torch.no_grad():
        taught = alignment.teacher(batch)[:, 1:].masked_fill(~usable, -torch.inf)
    order = 1 + taught.argsort(dim=1, descending=True, stable=True)  # [B, M] usable ones first
    counts = usable.sum(1)  # [B]
    chunks = alignment.chunks
    edges = torch.arange(chunks + 1, device=device) * counts.unsqueeze(1) // chunks  # [B, K + 1]
    share = torch.from_numpy(generator.random((len(some), chunks))).to(device)
    places = edges[:, :-1] + (share * (edges[:, 1:] - edges[:, :-1])).long()
    grades = torch.arange(chunks, 0, -1, dtype=torch.float32, device=device).expand(len(some), chunks)
    return Lists(batch, order.gather(1, places), grades * (counts >= chunks).unsqueeze(1))


def rank_loss(logits: Tensor, grades: Tensor) -> Tensor:
    """Pairwise logistic loss weighted by the change of NDCG ([B, K] logits, [B, K] gains >= 0 -> scalar).

    A pair of equal gains weighs nothing; a list whose gains are all 0 is left out. The mean over lists of the weighted
    sum over pairs, divided by the sum of weights: 0 where every pair stands clearly in the order of the gains, log 2
    where all logits are equal.
    """
    places = (-logits.detach()).argsort(dim=1, stable=True).argsort(dim=1)  # [B, K] 0 is the student's favourite
    discounts = 1 / torch.log2(2.0 + places)  # [B, K]
    gain = grades.unsqueeze(2) - grades.unsqueeze(1)  # [B, K, K]
    better = gain > 0
    # The ideal NDCG divides every pair of a list alike, and the sum of weights divides it out again.
    weights = better * gain * (discounts.unsqueeze(2) - discounts.unsqueeze(1)).abs()
    each = F.softplus(logits.unsqueeze(1) - logits.unsqueeze(2))  # [B, K, K] of i before j: log(1 + exp(s_j - s_i))
    total = weights.sum((1, 2))  # [B]
    compared = total > 0
    if not bool(compared.any()):
        return logits.sum() * 0
    by_list = (each * weights).sum((1, 2))[compared] / total[compared]
    return by_list.mean()
