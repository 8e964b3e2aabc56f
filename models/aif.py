"""The AIF model: item tower (nearline), user phase (once per request), head (per candidate).

Symbols in shapes: B users, C candidates of each, L behaviours (newest first), Ls of them attended to, U items of a
batch, F window features, X cross features, K categories of a user, d vector_dim, n bridges, m signature bits, T tiers,
G groups of actions, h1 and h2 hidden sizes of the head.

Everything is trained in the form in which it is served. Item vectors and bridge weights are rounded to bfloat16 as in
an N2O record, with a straight-through gradient; signatures are frozen +-1 bits. The head's first layer is linear in
what it reads, so the user phase folds every user-side term into a bias and a few matrices per user:

    h1 = relu( vec W_vec + a (V_u W_bridge) + s S_u + tiers W_tier + w X_u + C_u[category] + bias_u )

    S_u = 1/2mP sum_l s_l x_l' W_din      linear DIN: similarity (m + s . s_l) / 2m weighs all L behaviours
    X_u = x_l W_att of the newest Ls      attention: w_l = table[equal bits of s and s_l] / their sum
    C_u = network of cross features       hard search: a row for each of the user's top categories
    bias_u = b1 + user W_user + (1/2P sum_l x_l) W_din

with a, vec, s, tiers, w, category of the candidate; x_l, s_l the user's behaviours and signatures, P the number of
those that have one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domain.cross_features import CROSS_FEATURES
from domain.tiers import group_table
from models.batch import Batch
from models.config import ModelConfig
from models.similarity import equal_bits, of_category, tier_counts
from schemas.records import ACTIONS

__all__ = [
    "AIF", "Candidates", "Context", "Folded", "Head", "ItemEncoder", "ItemTower", "Past", "UserEncoder",
    "UserPhase", "served",
]  # fmt: skip

#: A column that hardly varies is not blown up.
_SMALLEST_DEVIATION: Final = 0.1


class Context(NamedTuple):
    """What the user phase knows of a user before it is folded into the head."""

    user: Tensor  #: [B, d] user vector
    behaviours: Tensor  #: [B, L, d] x, zeros where absent
    bridged: Tensor  #: [B, n, d] V_u


class Folded(NamedTuple):
    """The user in the head's first layer: what the user phase gives."""

    bias: Tensor  #: [B, h1]
    bridge_weight: Tensor  #: [B, n, h1] V_u W_bridge
    signature_weight: Tensor  #: [B, m, h1] S_u
    attention_weight: Tensor  #: [B, Ls, h1] X_u; [B, 0, h1] without attention
    category_weight: Tensor  #: [B, K, h1] C_u, zeros where the user has fewer categories


class Candidates(NamedTuple):
    """What N2O records say of candidates."""

    vector: Tensor  #: [B, C, d]
    bridges: Tensor  #: [B, C, n]
    signs: Tensor  #: [B, C, m]; zeros where there is no signature
    category: Tensor  #: [B, C] int64 buckets, 0 is none


class Past(NamedTuple):
    """What candidates are compared with."""

    signs: Tensor  #: [B, L, m] of the behaviours; zeros where absent or without signature
    actions: Tensor  #: [B, L] int64
    categories: Tensor  #: [B, K] int64 buckets, 0 is none


class ItemEncoder(nn.Module):
    """Item features to the item vector."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.category = nn.Embedding(config.category_buckets, config.category_dim)
        columns = config.dimensions.item_numeric
        # Of the numeric columns, as training met them first: counts and durations are of very different sizes.
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        inputs = config.embedding_dim + config.category_dim + columns
        self.identity: nn.Embedding | None = None
        if config.id_buckets:
            self.identity = nn.Embedding(config.id_buckets, config.id_dim)
            nn.init.zeros_(self.identity.weight)  # an id that training never met says nothing
            inputs += config.id_dim
        self.hidden = nn.Linear(inputs, config.tower_hidden)
        self.out = nn.Linear(config.tower_hidden, config.vector_dim)

    def standardise(self, numeric: Tensor) -> None:
        """From now on subtract the mean of these columns ([U, item_numeric]) and divide by their deviation."""
        self.mean.copy_(numeric.mean(0))
        self.scale.copy_(1 / numeric.std(0).clamp(min=_SMALLEST_DEVIATION))

    def vector(self, embedding: Tensor, category: Tensor, numeric: Tensor, identity: Tensor | None = None) -> Tensor:
        """[U, embedding_dim], [U], [U, item_numeric], [U] of a model with ids -> [U, d]."""
        read = [embedding, self.category(category), (numeric - self.mean) * self.scale]
        if self.identity is not None:
            assert identity is not None, "a model with ids reads them"
            read.append(self.identity(identity))
        vector: Tensor = self.out(F.relu(self.hidden(torch.cat(read, dim=-1))))  # [U, d]
        return vector


class ItemTower(ItemEncoder):
    """The item vector and its attention over the bridges; runs nearline, per catalogue change."""

    def __init__(self, config: ModelConfig, bridges: nn.Parameter) -> None:
        super().__init__(config)
        self.bridges = bridges  # [n, d], shared with the user phase

    def forward(
        self, embedding: Tensor, category: Tensor, numeric: Tensor, identity: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `vector` reads -> vector [U, d], bridge weights [U, n] that sum to 1."""
        vector = self.vector(embedding, category, numeric, identity)
        weights = torch.softmax(vector @ self.bridges.T / math.sqrt(vector.shape[-1]), dim=-1)  # [U, n]
        return vector, weights


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

    def with_nothing(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Behaviours [B, L+1, d] and their mask [B, L+1] with one more row, present exactly where nothing else is: no
        softmax over them is ever empty."""
        alone = 1 - present.amax(dim=1, keepdim=True)  # [B, 1]
        nothing = self.nothing.expand(x.shape[0], 1, -1)  # [B, 1, d]
        return torch.cat((x, nothing), dim=1), torch.cat((present, alone), dim=1)

    def encode(self, windows: Tensor, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """windows [B, F], behaviours x [B, L, d], present [B, L] -> user vector and projected profile, both [B, d]."""
        scale = 1 / math.sqrt(x.shape[-1])
        rows, mask = self.with_nothing(x, present)  # [B, L+1, d], [B, L+1]
        hidden = _hidden(mask)
        profile = self.profile(windows)  # [B, d]
        attended = torch.softmax(rows @ rows.mT * scale + hidden, dim=-1) @ rows  # [B, L+1, d]
        pooled = (self.feed_forward(attended) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)  # [B, d]
        wanted = torch.softmax(profile.unsqueeze(1) @ rows.mT * scale + hidden, dim=-1) @ rows  # [B, 1, d]
        user = self.mix(torch.cat((profile, pooled, wanted.squeeze(1)), dim=-1))  # [B, d]
        return user, profile


class UserPhase(UserEncoder):
    """Everything of a user, folded into the head's first layer; runs once per request, beside retrieval."""

    def __init__(self, config: ModelConfig, bridges: nn.Parameter) -> None:
        super().__init__(config)
        d, h1 = config.vector_dim, config.hidden[0]
        self.config = config
        self.bridges = bridges  # [n, d], shared with the item tower
        self.to_bias = nn.Linear(d, h1)  # W_user and b1
        if config.bea != "none":
            self.to_bridges = nn.Parameter(torch.randn(d, h1) / math.sqrt(d))  # W_bridge
        if config.din != "none":
            self.to_din = nn.Parameter(torch.randn(d, h1) / math.sqrt(d))  # W_din
        if config.attention:
            self.to_attention = nn.Parameter(torch.randn(d, h1) / math.sqrt(d))  # W_att
        if config.cross_categories:
            self.to_category = nn.Sequential(nn.Linear(CROSS_FEATURES, d), nn.ReLU(), nn.Linear(d, h1))

    def forward(
        self, windows: Tensor, vectors: Tensor, signatures: Tensor, actions: Tensor, ages: Tensor, present: Tensor,
        cross: Tensor,
    ) -> Folded:  # fmt: skip
        """The user folded into the head's first layer.

        windows [B, F], vectors [B, L, d], signatures [B, L, m] (+-1, zeros where absent), actions [B, L] int64,
        ages [B, L], present [B, L] (0 or 1), cross [B, K, X] (zeros where there is no category); L at least Ls.
        """
        context = self.context(windows, vectors, actions, ages, present)
        bias, signature_weight = self._linear_din(context, signatures, present)
        return Folded(
            bias, self._bridge_weight(context), signature_weight,
            self._attention_weight(context), self._category_weight(cross),
        )  # fmt: skip

    def context(self, windows: Tensor, vectors: Tensor, actions: Tensor, ages: Tensor, present: Tensor) -> Context:
        """The user before folding; see `forward` for the shapes of the inputs."""
        newest = slice(self.config.behaviours)
        x = self.values(vectors, actions, ages, present)  # [B, L, d]
        user, profile = self.encode(windows, x[:, newest], present[:, newest])
        return Context(user, x, self._bridged(x, present, profile))

    def _bridged(self, x: Tensor, present: Tensor, profile: Tensor) -> Tensor:
        """V_u ([B, n, d]): what the bridges see of all behaviours and the profile."""
        if self.config.bea == "none":
            return x.new_zeros(x.shape[0], *self.bridges.shape)
        rows, mask = self.with_nothing(x, present)
        fields = torch.cat((rows, profile.unsqueeze(1)), dim=1)  # [B, L+2, d], G of the paper
        mask = F.pad(mask, (0, 1), value=1.0)  # the profile is always there
        scores = self.bridges @ fields.mT / math.sqrt(fields.shape[-1])  # [B, n, L+2]
        if self.config.bea == "A":  # every bridge looks for its fields
            weights = torch.softmax(scores + _hidden(mask), dim=-1)  # [B, n, L+2]
        else:  # B: every field chooses its bridges; pooling fields by w_u a_i is a_i (w_u' G), the same served form
            weights = torch.softmax(scores, dim=1) * (mask / mask.sum(-1, keepdim=True)).unsqueeze(1)
        return weights @ fields

    def _bridge_weight(self, context: Context) -> Tensor:
        """[B, n, h1]."""
        if self.config.bea == "none":
            return context.bridged.new_zeros(*context.bridged.shape[:2], self.config.hidden[0])
        return context.bridged @ self.to_bridges

    def _linear_din(self, context: Context, signatures: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """The bias [B, h1] and S_u [B, m, h1]: sim(s, l) = (m + s . s_l) / 2m averaged over signed behaviours."""
        bias, bits = self.to_bias(context.user), self.config.signature_bits
        if self.config.din == "none":
            return bias, signatures.new_zeros(bias.shape[0], bits, bias.shape[-1])
        signed = present * signatures[..., 0].abs()  # [B, L]; a signature is all +-1 or all 0
        share = signed / signed.sum(1, keepdim=True).clamp(min=1)  # [B, L], 1/P
        # Summed over behaviours before W_din: [m, L] [L, d] [d, h1] costs less than a row of h1 for each behaviour.
        values = context.behaviours * share.unsqueeze(-1)  # [B, L, d], x / P
        signature_weight = (signatures.mT @ values) @ (self.to_din / (2 * bits))  # [B, m, h1]
        return bias + 0.5 * (values.sum(1) @ self.to_din), signature_weight

    def _attention_weight(self, context: Context) -> Tensor:
        """X_u [B, Ls, h1]."""
        newest = context.behaviours[:, : self.config.dimensions.attended]  # [B, Ls, d]
        if not self.config.attention:
            return newest.new_zeros(newest.shape[0], 0, self.config.hidden[0])
        return newest @ self.to_attention

    def _category_weight(self, cross: Tensor) -> Tensor:
        """C_u [B, K, h1]."""
        if not self.config.cross_categories:
            return cross.new_zeros(*cross.shape[:2], self.config.hidden[0])
        there = (cross.amax(dim=-1, keepdim=True) > 0).to(cross.dtype)  # [B, K, 1]
        return torch.as_tensor(self.to_category(cross) * there)


class Head(nn.Module):
    """What a request pays per candidate."""

    groups: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h1, h2 = config.hidden
        self.config = config
        self.vector_weight = nn.Parameter(torch.randn(config.vector_dim, h1) / math.sqrt(config.vector_dim))
        self.tier_weight = nn.Parameter(0.1 * torch.randn(config.dimensions.tier_columns, h1))
        self.register_buffer("groups", torch.from_numpy(group_table(config.tier_groups)).float(), persistent=False)
        if config.attention:
            # log of the table: it starts as softmax(16 similarity) and is free at every number of equal bits.
            bits = torch.arange(config.signature_bits + 1) / config.signature_bits
            self.attention_scores = nn.Parameter(16 * (bits - 1))  # [m+1]
        self.second = nn.Linear(h1, h2)
        self.third = nn.Linear(h2, 1)

    def forward(self, candidates: Candidates, past: Past, folded: Folded) -> Tensor:
        """Logits [B, C]."""
        vector, bridges, signs, category = candidates
        h = vector @ self.vector_weight + bridges @ folded.bridge_weight + folded.bias.unsqueeze(1)  # [B, C, h1]
        if self.config.din != "none":
            h = h + signs @ folded.signature_weight
        equal = equal_bits(signs, past.signs)  # [B, C, L], -1 where either has no signature
        if self.config.tiers:
            counts = tier_counts(equal, past.actions, self.groups, self.config.tiers, signs.shape[-1])
            h = h + torch.log1p(counts) @ self.tier_weight
        if self.config.attention:
            h = h + self.attention(equal[..., : self.config.behaviours]) @ folded.attention_weight
        if self.config.cross_categories:
            h = h + of_category(category, past.categories, folded.category_weight)
        logits: Tensor = self.third(F.relu(self.second(F.relu(h)))).squeeze(-1)  # [B, C]
        return logits

    def attention_table(self) -> Tensor:
        """Weight of a behaviour by its number of bits equal to the candidate's, before normalisation ([m+1])."""
        if not self.config.attention:
            return torch.zeros(self.config.signature_bits + 1)
        return torch.exp(self.attention_scores)

    def attention(self, equal: Tensor) -> Tensor:
        """w: attention over the behaviours that have a signature ([B, C, Ls] equal bits -> [B, C, Ls])."""
        table = self.attention_table().unsqueeze(-1)  # [m+1, 1]
        weights = F.embedding(equal.clamp(min=0), table).squeeze(-1) * (equal >= 0)  # [B, C, Ls]
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)


class AIF(nn.Module):
    """The three parts, joined for training exactly as serving joins them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        bridges = nn.Parameter(torch.randn(config.bridges, config.vector_dim))  # E; spread out, or all would be one
        self.tower = ItemTower(config, bridges)
        self.user = UserPhase(config, bridges)
        self.head = Head(config)
        #: What a row keeps of the tower's outputs; others than serving's are in quantization.py.
        self.rows: Callable[[Tensor], Tensor] = served

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C] of the batch's candidates."""
        batch = batch.newest(self.config.long_behaviours)
        vectors, bridges = map(self.rows, self.tower(*batch.items))  # [U, d], [U, n]
        known = batch.present.unsqueeze(-1)  # [B, L, 1]
        # F.embedding and not indexing: its gradient adds up in one order, so that equal seeds give equal models.
        behaviour_vectors = F.embedding(batch.behaviours, vectors) * known  # [B, L, d]
        behaviour_signs = F.embedding(batch.behaviours, batch.signs) * known  # [B, L, m]
        folded: Folded = self.user(
            batch.windows, behaviour_vectors, behaviour_signs, batch.actions, batch.ages, batch.present, batch.cross
        )
        candidates = Candidates(
            F.embedding(batch.candidates, vectors), F.embedding(batch.candidates, bridges),
            F.embedding(batch.candidates, batch.signs), batch.category[batch.candidates],
        )  # fmt: skip
        logits: Tensor = self.head(candidates, Past(behaviour_signs, batch.actions, batch.categories), folded)
        return logits

    def online_multiply_adds(self) -> int:
        """Per candidate: the first layer's products, one byte operation per 8 bits of each behaviour for tiers and
        attention, and the rest of the head. Hard search is an addition of h1 numbers."""
        config, (h1, h2) = self.config, self.config.hidden
        columns = config.vector_dim + config.dimensions.tier_columns + config.dimensions.attended
        columns += config.bridges if config.bea != "none" else 0
        columns += config.signature_bits if config.din != "none" else 0
        compared = config.long_behaviours if config.tiers else config.dimensions.attended
        return columns * h1 + compared * config.signature_bits // 8 + h1 * h2 + h2


def served(values: Tensor) -> Tensor:
    """Values as an N2O record keeps them, rounded to bfloat16; the gradient passes as if they were not."""
    return values + (values.to(torch.bfloat16).to(torch.float32) - values).detach()


def _hidden(mask: Tensor) -> Tensor:
    """What is added to attention scores ([B, L] -> [B, 1, L]): 0 for rows that are there, -inf for others."""
    return torch.where(mask > 0, 0.0, -torch.inf).unsqueeze(1)
