"""What a candidate costs: widen its record to one input row, compare its signature, one small network, rank.

Plain numpy over whole candidate sets, one thread. An input row is [vector d | bridges n | signs m | tiers G T |
attention Ls]; the head's first layer is one matrix with its rows in that order (`first_layer`), of which bridges, signs
and attention are the request's own. The row of the candidate's category is added to its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.item_features import category_buckets
from domain.n2o import Flag
from domain.tiers import tier_values
from schemas.errors import ArtifactError

__all__ = [
    "Folded",
    "Head",
    "Prepared",
    "assemble",
    "attention_weights",
    "category_rows",
    "first_layer",
    "input_width",
    "prepare",
    "rank",
    "score",
    "score_rows",
    "tier_counts",
]

Floats = npt.NDArray[np.float32]

_COUNTERS: Final = 8  #: byte counters in a 64-bit word
_COUNTER_MAX: Final = 255


@dataclass(frozen=True)
class Head:
    """The head's plain arrays, float32: the part of the first layer that is the same for all users, and the rest."""

    vector_weight: Floats  #: [d, h1]
    tier_weight: Floats  #: [G * T, h1]
    attention_table: Floats  #: [m + 1], not negative: weight of a behaviour by its bits equal to the candidate's
    w2: Floats  #: [h1, h2]
    b2: Floats  #: [h2]
    w3: Floats  #: [h2]
    b3: Floats  #: []

    @classmethod
    def of(cls, arrays: dict[str, npt.NDArray[Any]], sizes: Dimensions) -> Head:
        """The head in `head.npz`. Raises ArtifactError naming the array whose shape or type is another."""
        for name, shape in sizes.head_shapes.items():
            found = arrays.get(name)
            if found is None or found.shape != shape or found.dtype != np.float32:
                what = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise ArtifactError(f"head.npz: {name} must be float32 {shape}, found {what}")
        if not (arrays["attention_table"] >= 0).all():
            raise ArtifactError("head.npz: attention_table must not be negative")
        return cls(**{name: np.ascontiguousarray(arrays[name]) for name in sizes.head_shapes})


@dataclass(frozen=True)
class Folded:
    """One user in the head's first layer, and what candidates are compared with."""

    bias: Floats  #: [h1]
    bridge_weight: Floats  #: [n, h1]
    signature_weight: Floats  #: [m, h1]
    attention_weight: Floats  #: [Ls, h1]
    category_weight: Floats  #: [K, h1]
    groups: tuple[npt.NDArray[np.uint8], ...]  #: of each group of actions the signatures of its behaviours [l, m / 8]
    attended: npt.NDArray[np.uint8]  #: [Ls, m / 8] signatures of the newest behaviours
    attended_signed: npt.NDArray[np.bool_]  #: [Ls] which of them have one
    categories: npt.NDArray[np.int64]  #: [K] buckets, 0 is none


@dataclass(frozen=True)
class Prepared:
    """Everything of one user that scoring reads. Never changes; any thread may score with it."""

    head: Head
    sizes: Dimensions
    folded: Folded
    weights: Floats  #: [width, h1]

    @property
    def nbytes(self) -> int:
        """Bytes of the user's own arrays."""
        folded = self.folded
        matrices = (self.weights, folded.bias, folded.category_weight)
        signatures = (folded.attended, *folded.groups)
        return sum(each.nbytes for each in matrices) + sum(each.nbytes for each in signatures)


def prepare(head: Head, sizes: Dimensions, folded: Folded) -> Prepared:
    """Everything that does not depend on candidates, once per user."""
    return Prepared(head, sizes, folded, first_layer(head, folded))


def score_rows(prepared: Prepared, rows: npt.NDArray[np.uint8]) -> Floats:
    """Probabilities ([n] float32) of candidates' records ([n, stride] uint8)."""
    sizes, folded = prepared.sizes, prepared.folded
    records = rows.view(sizes.layout.dtype)[:, 0]
    inputs = np.empty((len(rows), input_width(sizes)), dtype=np.float32)
    assemble(records, prepared.head, folded, sizes, inputs)
    return score(inputs, prepared.weights, folded.bias, category_rows(records, folded, sizes), prepared.head)


def input_width(sizes: Dimensions) -> int:
    """Values in a candidate's input row."""
    return sizes.vector_dim + sizes.bridges + sizes.signature_bits + sizes.tier_columns + sizes.attended


def first_layer(head: Head, folded: Folded) -> Floats:
    """The first layer of one request ([width, h1])."""
    return np.concatenate(
        (head.vector_weight, folded.bridge_weight, folded.signature_weight, head.tier_weight, folded.attention_weight)
    )


def assemble(records: npt.NDArray[Any], head: Head, folded: Folded, sizes: Dimensions, out: Floats) -> None:
    """Input rows of candidates: records ([n] of the layout's dtype) -> out ([n, width] float32).

    A candidate without a signature has zeros for its signs, tiers and attention; so has, for the last two, a user
    without behaviours.
    """
    bridges = sizes.vector_dim
    signs = bridges + sizes.bridges
    tiers = signs + sizes.signature_bits
    attention = tiers + sizes.tier_columns
    _widen(records["vector"], out[:, :bridges])
    _widen(records["bridges"], out[:, bridges:signs])
    packed = np.ascontiguousarray(records["signature"])
    np.multiply(np.unpackbits(packed, axis=1), np.float32(2), out=out[:, signs:tiers])
    out[:, signs:tiers] -= np.float32(1)
    for group, signatures in enumerate(folded.groups):
        start = tiers + group * sizes.tiers
        out[:, start : start + sizes.tiers] = tier_values(tier_counts(packed, signatures, sizes.tiers))
    out[:, attention:] = attention_weights(packed, folded.attended, folded.attended_signed, head.attention_table)
    unsigned = records["flags"] & Flag.HAS_SIGNATURE == 0
    if unsigned.any():
        out[unsigned, signs:] = 0


def tier_counts(
    candidates: npt.NDArray[np.uint8], behaviours: npt.NDArray[np.uint8], tiers: int
) -> npt.NDArray[np.int64]:
    """SimTier: of L behaviours, how many fall into each tier of similarity to each candidate.

    Packed signatures [n, m / 8] and [L, m / 8] (m a multiple of 64) -> [n, tiers] counts. Tier t holds similarities in
    [t / T, (t + 1) / T), the last one 1 as well.

    Counters are bytes of 64-bit words: a similarity looks up the word with a one in its tier's byte, and adding the
    words of up to 255 behaviours counts eight tiers at once. Nothing of [n, L, tiers] exists.
    """
    counts = np.zeros((len(candidates), tiers), dtype=np.int64)
    for start in range(0, len(behaviours) if tiers else 0, _COUNTER_MAX):
        differing = _differing(candidates, behaviours[start : start + _COUNTER_MAX])
        words = [
            np.take(ones, differing, mode="clip").sum(axis=1) for ones in _counter_words(candidates.shape[1] * 8, tiers)
        ]
        counts += np.stack(words, axis=1).view(np.uint8)[:, :tiers]
    return counts


def attention_weights(
    candidates: npt.NDArray[np.uint8], behaviours: npt.NDArray[np.uint8], signed: npt.NDArray[np.bool_], table: Floats
) -> Floats:
    """Weights of behaviours ([n, m / 8], [Ls, m / 8], [Ls] -> [n, Ls]): the table's by equal bits, of sum 1, or 0."""
    if not len(behaviours):
        return np.zeros((len(candidates), 0), dtype=np.float32)
    weights: Floats = table[candidates.shape[1] * 8 - _differing(candidates, behaviours)] * signed
    total = weights.sum(axis=1, keepdims=True)
    np.divide(weights, total, out=weights, where=total > 0)
    return weights


def category_rows(records: npt.NDArray[Any], folded: Folded, sizes: Dimensions) -> Floats | None:
    """What candidates add to the first layer for their category ([n, h1]); None where the user has no categories."""
    if not folded.categories.any():
        return None
    own = category_buckets(
        records["category_id"], records["flags"] & Flag.HAS_CATEGORY != 0, sizes.category_buckets
    )  # [n]
    rows = np.concatenate((folded.category_weight, np.zeros((1, folded.bias.shape[0]), dtype=np.float32)))
    place = np.full(sizes.category_buckets, len(folded.categories))  # the row of zeros
    place[folded.categories] = np.arange(len(folded.categories))
    place[0] = len(folded.categories)
    added: Floats = rows[place[own]]
    return added


def _differing(candidates: npt.NDArray[np.uint8], behaviours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Bits that differ ([n, m / 8], [L, m / 8] -> [n, L])."""
    left = np.ascontiguousarray(candidates).view(np.uint64)  # [n, m / 64]
    right = np.ascontiguousarray(behaviours).view(np.uint64)
    differing = np.zeros((len(left), len(right)), dtype=np.uint16)
    for word in range(left.shape[1]):
        differing += np.bitwise_count(left[:, None, word] ^ right[None, :, word])
    return differing


@lru_cache(maxsize=8)
def _counter_words(bits: int, tiers: int) -> list[npt.NDArray[np.uint64]]:
    """For every eight tiers, the word to add by number of differing bits ([bits + 1] uint64)."""
    tier = np.minimum(tiers - 1, np.arange(bits, -1, -1) * tiers // bits)
    words = []
    for first in range(0, tiers, _COUNTERS):
        inside = (tier >= first) & (tier < first + _COUNTERS)
        shift = np.where(inside, (tier - first) * 8, 0).astype(np.uint64)
        words.append(np.where(inside, np.uint64(1) << shift, np.uint64(0)))
    return words


def score(inputs: Floats, weights: Floats, bias: Floats, added: Floats | None, head: Head) -> Floats:
    """Scores in 0..1 ([n] float32) of input rows ([n, width]) under a request's first layer ([width, h1], [h1]).

    `added` [n, h1] is what stands beside the matrix: the rows of the candidates' categories.
    """
    hidden = inputs @ weights
    hidden += bias
    if added is not None:
        hidden += added
    np.maximum(hidden, 0, out=hidden)
    hidden = hidden @ head.w2
    hidden += head.b2
    np.maximum(hidden, 0, out=hidden)
    logits = hidden @ head.w3 + head.b3
    # The exponent of a negative number only: exp never overflows.
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1, small) / (1 + small), dtype=np.float32)


def rank(
    scores: Floats, ids: npt.NDArray[np.int64], servable: npt.NDArray[np.bool_], top_k: int
) -> npt.NDArray[np.int64]:
    """Indices of the best `top_k` candidates ([k] int64): servable ones first, score descending, item id ascending.

    Complete and stable: equal inputs give equal answers whatever order the candidates came in.
    """
    order_by = np.where(servable, -scores, np.float32(np.inf))
    chosen = np.arange(len(scores))
    if top_k < len(scores):
        # Everything up to the k-th value, ties included: which ties get in is for the item id to say.
        worst = np.partition(order_by, top_k - 1)[top_k - 1]
        chosen = np.flatnonzero(order_by <= worst)
    return chosen[np.lexsort((ids[chosen], order_by[chosen]))][:top_k]


def _widen(values: npt.NDArray[np.uint16], out: Floats) -> None:
    """bfloat16 ([n, k] uint16) to the float32 it stands for, in place: no temporary array."""
    np.left_shift(values, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32, casting="safe")
