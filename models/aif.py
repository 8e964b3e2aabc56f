"""The AIF model: item tower (nearline), user phase (once per request), head (per candidate).

Symbols in shapes: B users, C candidates of each, L behaviours, U items of a batch, F window features, d vector_dim,
n bridges, m signature bits, T tiers, h1 and h2 hidden sizes of the head.

Everything is trained in the form in which it is served. Item vectors and bridge weights are rounded to bfloat16 as in
an N2O record, with a straight-through gradient; signatures are frozen +-1 bits. The head's first layer is linear in
what it reads, so the user phase folds every user-side term into one bias and two matrices per user:

    h1 = relu( vec W_vec + a (V_u W_bridge) + s (1/2mP sum_l s_l x_l^T W_din) + tiers W_tier + bias_u )
    bias_u = b1 + user W_user + (1/2P sum_l x_l) W_din

with a, vec, s, tiers of the candidate; x_l, s_l, P the user's behaviours, their signatures and their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import ModelConfig
from models.cross_features import HARD_SEARCH_COLUMNS, hard_search, similar_values
from schemas.records import ACTIONS

__all__ = [
    "AIF", "Batch", "Context", "Head", "ItemEncoder", "ItemTower", "UserEncoder", "UserPhase", "served",
    "tier_histogram",
]  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """One training step's inputs: users, the candidates of each, and the items that both point at."""

    # items
    item_ids: Tensor  #: [U] int64; no model reads them but the one that counts
    embedding: Tensor  #: [U, embedding_dim] float32
    category: Tensor  #: [U] int64
    numeric: Tensor  #: [U, item_numeric] float32
    signs: Tensor  #: [U, m] float32, +-1; zeros where an item has no signature
    # users
    windows: Tensor  #: [B, F] float32
    behaviours: Tensor  #: [B, L] int64, rows of the items
    actions: Tensor  #: [B, L] int64
    ages: Tensor  #: [B, L] float32
    present: Tensor  #: [B, L] float32, 1 where there is a behaviour and its item is known
    # candidates
    candidates: Tensor  #: [B, C] int64, rows of the items
    labels: Tensor  #: [B, C] float32
    weights: Tensor  #: [B, C] float32, 0 leaves a candidate out of the loss

    def newest(self, count: int) -> Batch:
        """The same batch with at most `count` behaviours of each user, the newest."""
        if self.behaviours.shape[1] <= count:
            return self
        return replace(
            self, behaviours=self.behaviours[:, :count], actions=self.actions[:, :count],
            ages=self.ages[:, :count], present=self.present[:, :count],
        )  # fmt: skip


class Context(NamedTuple):
    """What the user phase knows of a user before it is folded into the head."""

    user: Tensor  #: [B, d] user vector
    behaviours: Tensor  #: [B, L, d] x, zeros where absent
    bridged: Tensor  #: [B, n, d] V_u


class ItemEncoder(nn.Module):
    """Item features to the item vector."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.category = nn.Embedding(config.category_buckets, config.category_dim)
        inputs = config.embedding_dim + config.category_dim + config.dimensions.item_numeric
        self.hidden = nn.Linear(inputs, config.tower_hidden)
        self.out = nn.Linear(config.tower_hidden, config.vector_dim)

    def vector(self, embedding: Tensor, category: Tensor, numeric: Tensor) -> Tensor:
        """[U, embedding_dim], [U], [U, item_numeric] -> [U, d]."""
        x = torch.cat((embedding, self.category(category), numeric), dim=-1)  # [U, inputs]
        vector: Tensor = self.out(F.relu(self.hidden(x)))  # [U, d]
        return vector


class ItemTower(ItemEncoder):
    """The item vector and its attention over the bridges; runs nearline, per catalogue change."""

    def __init__(self, config: ModelConfig, bridges: nn.Parameter) -> None:
        super().__init__(config)
        self.bridges = bridges  # [n, d], shared with the user phase

    def forward(self, embedding: Tensor, category: Tensor, numeric: Tensor) -> tuple[Tensor, Tensor]:
        """[U, embedding_dim], [U], [U, item_numeric] -> vector [U, d], bridge weights [U, n] that sum to 1."""
        vector = self.vector(embedding, category, numeric)
        weights = torch.softmax(vector @ self.bridges.T / math.sqrt(vector.shape[-1]), dim=-1)  # [U, n]
        return vector, weights


class Encoded(NamedTuple):
    """A user's encoders' outputs."""

    user: Tensor  #: [B, d] user vector
    profile: Tensor  #: [B, d]
    behaviours: Tensor  #: [B, L, d] x, zeros where absent
    rows: Tensor  #: [B, L+1, d] the behaviours and the one that stands in for none
    hidden: Tensor  #: [B, 1, L+1] 0 for rows that are there, -inf for others: added to attention scores


class UserEncoder(nn.Module):
    """Profile and behaviours to the user vector: self-attention with pooling, cross-attention of the profile."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.vector_dim
        self.profile = nn.Linear(config.dimensions.user_features, d)
        self.behaviour = nn.Linear(d, d)
        self.action = nn.Embedding(len(ACTIONS), d)
        self.age = nn.Linear(1, d, bias=False)
        self.nothing = nn.Parameter(0.1 * torch.randn(d))  # stands in for behaviours where a user has none
        self.feed_forward = nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))
        self.mix = nn.Sequential(nn.Linear(3 * d, d), nn.ReLU(), nn.Linear(d, d))

    def values(self, vectors: Tensor, actions: Tensor, ages: Tensor, present: Tensor) -> Tensor:
        """Behaviours as x ([B, L, d]), zeros where absent: item vector, action and age."""
        x = self.behaviour(vectors) + self.action(actions) + self.age(ages.unsqueeze(-1))  # [B, L, d]
        return torch.as_tensor(x * present.unsqueeze(-1))

    def encode(self, windows: Tensor, vectors: Tensor, actions: Tensor, ages: Tensor, present: Tensor) -> Encoded:
        """See `UserPhase.forward` for the shapes of the inputs."""
        scale = 1 / math.sqrt(vectors.shape[-1])
        x = self.values(vectors, actions, ages, present)
        # One more row, present exactly where nothing else is: no softmax below is ever empty.
        alone = 1 - present.amax(dim=1, keepdim=True)  # [B, 1]
        nothing = self.nothing.expand(x.shape[0], 1, -1)  # [B, 1, d]
        rows = torch.cat((x, nothing), dim=1)  # [B, L+1, d]
        mask = torch.cat((present, alone), dim=1)  # [B, L+1]
        hidden = torch.where(mask > 0, 0.0, -torch.inf).unsqueeze(1)  # [B, 1, L+1], added to attention scores

        profile = self.profile(windows)  # [B, d]
        attended = torch.softmax(rows @ rows.mT * scale + hidden, dim=-1) @ rows  # [B, L+1, d]
        pooled = (self.feed_forward(attended) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)  # [B, d]
        wanted = torch.softmax(profile.unsqueeze(1) @ rows.mT * scale + hidden, dim=-1) @ rows  # [B, 1, d]
        user = self.mix(torch.cat((profile, pooled, wanted.squeeze(1)), dim=-1))  # [B, d]
        return Encoded(user, profile, x, rows, hidden)


class UserPhase(UserEncoder):
    """Everything of a user, folded into the head's first layer; runs once per request, beside retrieval."""

    def __init__(self, config: ModelConfig, bridges: nn.Parameter) -> None:
        super().__init__(config)
        d, h1 = config.vector_dim, config.hidden[0]
        self.config = config
        self.bridges = bridges  # [n, d], shared with the item tower
        self.to_bias = nn.Linear(d, h1)  # W_user and b1
        self.to_bridges = nn.Parameter(torch.randn(d, h1) / math.sqrt(d))  # W_bridge
        self.to_din = nn.Parameter(torch.randn(d, h1) / math.sqrt(d))  # W_din

    def context(self, windows: Tensor, vectors: Tensor, actions: Tensor, ages: Tensor, present: Tensor) -> Context:
        """The user before folding; see `forward` for the shapes of the inputs."""
        encoded = self.encode(windows, vectors, actions, ages, present)
        fields = torch.cat((encoded.rows, encoded.profile.unsqueeze(1)), dim=1)  # [B, L+2, d], G of the paper
        visible = F.pad(encoded.hidden, (0, 1))  # the profile is always there
        scores = self.bridges @ fields.mT / math.sqrt(fields.shape[-1])  # [B, n, L+2]
        if self.config.bea == "A":  # every bridge looks for its fields
            weights = torch.softmax(scores + visible, dim=-1)  # [B, n, L+2]
        else:  # B: every field chooses its bridges; pooling fields by w_u a_i is a_i (w_u' G), the same served form
            there = torch.exp(visible)  # [B, 1, L+2], 1 or 0
            weights = torch.softmax(scores, dim=1) * there / there.sum(-1, keepdim=True)  # [B, n, L+2]
        return Context(encoded.user, encoded.behaviours, weights @ fields)

    def forward(
        self, windows: Tensor, vectors: Tensor, signatures: Tensor, actions: Tensor, ages: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The user folded into the head's first layer.

        windows [B, F], vectors [B, L, d], signatures [B, L, m] (+-1, zeros where absent), actions [B, L] int64,
        ages [B, L], present [B, L] (0 or 1) -> bias [B, h1], bridge_weight [B, n, h1], signature_weight [B, m, h1].
        """
        return self.fold(self.context(windows, vectors, actions, ages, present), signatures, present)

    def fold(self, context: Context, signatures: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A user's context as bias, bridge_weight and signature_weight; see `forward`."""
        bias = self.to_bias(context.user)  # [B, h1]
        bridge_weight = context.bridged @ self.to_bridges  # [B, n, h1]
        if self.config.din == "softmax":  # does not fold: `AIF.forward` adds it per candidate
            return bias, bridge_weight, signatures.new_zeros(len(bias), self.config.signature_bits, bias.shape[-1])
        # Linear DIN: sim(i, l) = (m + s_i . s_l) / 2m over behaviours that have a signature, averaged over them.
        signed = present * signatures[..., 0].abs()  # [B, L]; a signature is all +-1 or all 0
        share = signed / signed.sum(1, keepdim=True).clamp(min=1)  # [B, L], 1/P
        values = (context.behaviours * share.unsqueeze(-1)) @ self.to_din  # [B, L, h1], x W_din / P
        signature_weight = signatures.mT @ (values / (2 * self.config.signature_bits))  # [B, m, h1]
        return bias + 0.5 * values.sum(1), bridge_weight, signature_weight


class Head(nn.Module):
    """What a request pays per candidate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h1, h2 = config.hidden
        self.vector_weight = nn.Parameter(torch.randn(config.vector_dim, h1) / math.sqrt(config.vector_dim))
        self.tier_weight = nn.Parameter(0.1 * torch.randn(config.tiers, h1))
        self.second = nn.Linear(h1, h2)
        self.third = nn.Linear(h2, 1)

    def forward(
        self,
        vector: Tensor,
        bridges: Tensor,
        signs: Tensor,
        tiers: Tensor,
        folded: tuple[Tensor, Tensor, Tensor],
        unfolded: Tensor | None = None,
    ) -> Tensor:
        """[B, C, d], [B, C, n], [B, C, m], [B, C, T] and a user phase's outputs -> logits [B, C].

        `unfolded` [B, C, h1] is what the options that are not served add to the first layer.
        """
        bias, bridge_weight, signature_weight = folded
        h = vector @ self.vector_weight + bridges @ bridge_weight + signs @ signature_weight  # [B, C, h1]
        h = h + tiers @ self.tier_weight + bias.unsqueeze(1)
        h = F.relu(h if unfolded is None else h + unfolded)
        logits: Tensor = self.third(F.relu(self.second(h))).squeeze(-1)  # [B, C]
        return logits


class AIF(nn.Module):
    """The three parts, joined for training exactly as serving joins them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        bridges = nn.Parameter(torch.randn(config.bridges, config.vector_dim))  # E; spread out, or all would be one
        self.tower = ItemTower(config, bridges)
        self.user = UserPhase(config, bridges)
        self.head = Head(config)
        h1 = config.hidden[0]
        if config.din == "softmax":
            self.sharpness = nn.Parameter(torch.tensor(8.0))  # of softmax(sharpness * similarity)
        if config.hard_search:
            self.hard_search_weight = nn.Parameter(0.1 * torch.randn(HARD_SEARCH_COLUMNS, h1))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C] of the batch's candidates."""
        batch = batch.newest(self.config.behaviours)
        vectors, bridges = map(served, self.tower(batch.embedding, batch.category, batch.numeric))  # [U, d], [U, n]
        known = batch.present.unsqueeze(-1)  # [B, L, 1]
        # F.embedding and not indexing: its gradient adds up in one order, so that equal seeds give equal models.
        behaviour_vectors = F.embedding(batch.behaviours, vectors) * known  # [B, L, d]
        behaviour_signs = F.embedding(batch.behaviours, batch.signs) * known  # [B, L, m]
        context = self.user.context(batch.windows, behaviour_vectors, batch.actions, batch.ages, batch.present)
        folded = self.user.fold(context, behaviour_signs, batch.present)
        signs = F.embedding(batch.candidates, batch.signs)  # [B, C, m]
        tiers = tier_histogram(signs, behaviour_signs, self.config.tiers)  # [B, C, T]
        vector, weights = F.embedding(batch.candidates, vectors), F.embedding(batch.candidates, bridges)
        unfolded = self._unfolded(batch, context, signs, behaviour_signs)
        logits: Tensor = self.head(vector, weights, signs, tiers, folded, unfolded)
        return logits

    def _unfolded(self, batch: Batch, context: Context, signs: Tensor, behaviour_signs: Tensor) -> Tensor | None:
        """What the options that are not served add per candidate ([B, C, h1]); None at the defaults."""
        added: Tensor | None = None
        if self.config.din == "softmax":
            similarity = (1 + signs @ behaviour_signs.mT / self.config.signature_bits) / 2  # [B, C, L]
            signed = behaviour_signs[..., 0].abs()  # [B, L]
            pooled = similar_values(similarity, signed, context.behaviours, self.sharpness)  # [B, C, d]
            added = pooled @ self.user.to_din
        if self.config.hard_search:
            crossed = hard_search(
                batch.category[batch.candidates], batch.category[batch.behaviours],
                batch.actions, batch.ages, batch.present,
            ) @ self.hard_search_weight  # [B, C, h1]  # fmt: skip
            added = crossed if added is None else added + crossed
        return added

    def online_multiply_adds(self) -> int:
        """Per candidate: the first layer's products, one byte operation per 8 bits of each behaviour for the tiers,
        and the rest of the head."""
        config, (h1, h2) = self.config, self.config.hidden
        first = (config.vector_dim + config.bridges + config.tiers) * h1
        similarities = config.behaviours * config.signature_bits // 8
        din = config.signature_bits * h1 if config.din == "linear" else (config.behaviours + h1) * config.vector_dim
        counted = similarities if config.tiers or config.din == "softmax" else 0
        # Hard search is folded per category once per request, and adds one row of h1 numbers.
        return first + din + counted + h1 * h2 + h2


def served(values: Tensor) -> Tensor:
    """Values as an N2O record keeps them, rounded to bfloat16; the gradient passes as if they were not."""
    return values + (values.to(torch.bfloat16).to(torch.float32) - values).detach()


def tier_histogram(signs: Tensor, behaviour_signs: Tensor, tiers: int) -> Tensor:
    """SimTier: the share of a user's signed behaviours in each tier of similarity to a candidate.

    signs [B, C, m], behaviour_signs [B, L, m] (+-1, zeros where absent) -> [B, C, T]; zeros for a candidate without
    signature and for a user without signed behaviours. Tier t holds similarities in [t/T, (t+1)/T), the last one 1.
    """
    bits = signs.shape[-1]
    has = behaviour_signs[..., 0].abs()  # [B, L]
    pairs = signs[..., :1].abs() * has.unsqueeze(1)  # [B, C, L]
    equal = (bits + signs @ behaviour_signs.mT).long() // 2  # [B, C, L] equal bits
    tier = (equal * tiers // bits).clamp(max=tiers - 1)
    counts = [((tier == each) * pairs).sum(-1) for each in range(tiers)]
    stacked = torch.stack(counts, dim=-1) if counts else signs.new_zeros(*pairs.shape[:2], 0)  # [B, C, T]
    return stacked / has.sum(-1).clamp(min=1)[:, None, None]
