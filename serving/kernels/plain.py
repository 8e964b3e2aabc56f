"""Scores in plain numpy: widen a record to one input row, compare its signature, one small network.

The oracle of the faster kernels, and what scores where nothing else runs. Whole candidate sets, one thread. An input
row is [vector d | bridges n | signs m | tiers G T | attention Ls], signs only with linear DIN; the head's first layer
is one matrix with its rows in that order (`first_layer`), of which bridges, signs and attention are the user's own. The
row of the candidate's category is added to its result.
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
from serving.kernels.head import Floats, Folded, Head, Precision

__all__ = [
    "Plain", "PlainPrepared", "assemble", "attention_weights", "category_rows", "first_layer", "input_width", "score",
    "tier_counts",
]  # fmt: skip

_COUNTERS: Final = 8  #: byte counters in a 64-bit word
_COUNTER_MAX: Final = 255


class Plain:
    """The kernel in numpy."""

    name: Final = "numpy"
    precision: Final[Precision] = "float32"

    def prepare(self, head: Head, sizes: Dimensions, folded: Folded) -> PlainPrepared:
        """The first layer of a user."""
        return PlainPrepared(head, sizes, folded, first_layer(head, folded, sizes))


@dataclass(frozen=True)
class PlainPrepared:
    """A user's first layer as one matrix."""

    head: Head
    sizes: Dimensions
    folded: Folded
    weights: Floats  #: [width, h1]

    @property
    def nbytes(self) -> int:
        """Bytes of the user's own arrays."""
        return self.folded.nbytes + self.weights.nbytes

    def score(self, rows: npt.NDArray[np.uint8]) -> Floats:
        """Probabilities ([n] float32) of candidates' records ([n, stride] uint8)."""
        records = rows.view(self.sizes.layout.dtype)[:, 0]
        inputs = np.empty((len(rows), input_width(self.sizes)), dtype=np.float32)
        assemble(records, self.head, self.folded, self.sizes, inputs)
        added = category_rows(records, self.folded, self.sizes)
        return score(inputs, self.weights, self.folded.bias, added, self.head)


def input_width(sizes: Dimensions) -> int:
    """Values in a candidate's input row."""
    return sizes.vector_dim + sizes.bridges + sizes.sign_columns + sizes.tier_columns + sizes.attended


def first_layer(head: Head, folded: Folded, sizes: Dimensions) -> Floats:
    """The first layer of one request ([width, h1])."""
    signs = folded.signature_weight[: sizes.sign_columns]
    return np.concatenate((head.vector_weight, folded.bridge_weight, signs, head.tier_weight, folded.attention_weight))


def assemble(records: npt.NDArray[Any], head: Head, folded: Folded, sizes: Dimensions, out: Floats) -> None:
    """Input rows of candidates: records ([n] of the layout's dtype) -> out ([n, width] float32).

    A candidate without a signature has zeros for its signs, tiers and attention; so has, for the last two, a user
    without behaviours.
    """
    bridges = sizes.vector_dim
    signs = bridges + sizes.bridges
    tiers = signs + sizes.sign_columns
    attention = tiers + sizes.tier_columns
    _widen(records["vector"], out[:, :bridges])
    _widen(records["bridges"], out[:, bridges:signs])
    packed = np.ascontiguousarray(records["signature"])
    if sizes.din:
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


def _widen(values: npt.NDArray[np.uint16], out: Floats) -> None:
    """bfloat16 ([n, k] uint16) to the float32 it stands for, in place: no temporary array."""
    np.left_shift(values, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32, casting="safe")
