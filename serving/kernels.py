"""What a candidate costs: widen its record to one input row, count its similarity tiers, one small network, rank.

Plain numpy over whole candidate sets, one thread. An input row is [vector d | bridges n | signs m | tiers T]; the
head's first layer is one matrix with its rows in that order (`first_layer`), of which bridges and signs are the
request's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.n2o import Flag
from schemas.errors import ArtifactError

__all__ = ["Head", "assemble", "first_layer", "input_width", "rank", "score", "tier_counts"]

Floats = npt.NDArray[np.float32]

_COUNTERS: Final = 8  #: byte counters in a 64-bit word
_COUNTER_MAX: Final = 255


@dataclass(frozen=True)
class Head:
    """The head's plain arrays, float32: the part of the first layer that is the same for all users, and the rest."""

    vector_weight: Floats  #: [d, h1]
    tier_weight: Floats  #: [T, h1]
    w2: Floats  #: [h1, h2]
    b2: Floats  #: [h2]
    w3: Floats  #: [h2]
    b3: Floats  #: []

    @classmethod
    def of(cls, arrays: dict[str, npt.NDArray[Any]], sizes: Dimensions) -> Head:
        """The head in `head.npz`. Raises ArtifactError naming the array whose shape or type is another."""
        h1, h2 = sizes.hidden
        shapes = {
            "vector_weight": (sizes.vector_dim, h1),
            "tier_weight": (sizes.tiers, h1),
            "w2": (h1, h2),
            "b2": (h2,),
            "w3": (h2,),
            "b3": (),
        }
        for name, shape in shapes.items():
            found = arrays.get(name)
            if found is None or found.shape != shape or found.dtype != np.float32:
                what = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise ArtifactError(f"head.npz: {name} must be float32 {shape}, found {what}")
        return cls(**{name: np.ascontiguousarray(arrays[name]) for name in shapes})


def input_width(sizes: Dimensions) -> int:
    """Values in a candidate's input row."""
    return sizes.vector_dim + sizes.bridges + sizes.signature_bits + sizes.tiers


def first_layer(head: Head, bridge_weight: Floats, signature_weight: Floats) -> Floats:
    """The first layer of one request ([width, h1]) from its folded weights ([n, h1], [m, h1])."""
    return np.concatenate((head.vector_weight, bridge_weight, signature_weight, head.tier_weight))


def assemble(
    records: npt.NDArray[Any], behaviour_signatures: npt.NDArray[np.uint8], sizes: Dimensions, out: Floats
) -> None:
    """Input rows of candidates: records ([n] of the layout's dtype), signatures of the user's behaviours that have
    one ([L, m / 8]) -> out ([n, width] float32).

    A candidate without a signature has zeros for its signs and tiers; so has, for tiers, a user without behaviours.
    """
    bridges = sizes.vector_dim
    signs = bridges + sizes.bridges
    tiers = signs + sizes.signature_bits
    _widen(records["vector"], out[:, :bridges])
    _widen(records["bridges"], out[:, bridges:signs])
    packed = np.ascontiguousarray(records["signature"])
    np.multiply(np.unpackbits(packed, axis=1), np.float32(2), out=out[:, signs:tiers])
    out[:, signs:tiers] -= np.float32(1)
    out[:, tiers:] = tier_counts(packed, behaviour_signatures, sizes.tiers)
    out[:, tiers:] /= np.float32(max(1, len(behaviour_signatures)))
    unsigned = records["flags"] & Flag.HAS_SIGNATURE == 0
    if unsigned.any():
        out[unsigned, signs:] = 0


def tier_counts(
    candidates: npt.NDArray[np.uint8], behaviours: npt.NDArray[np.uint8], tiers: int
) -> npt.NDArray[np.uint8]:
    """SimTier: of L behaviours, how many fall into each tier of similarity to each candidate.

    Packed signatures [n, m / 8] and [L <= 255, m / 8] (m a multiple of 64) -> [n, tiers] counts. Tier t holds
    similarities in [t / T, (t + 1) / T), the last one 1 as well.

    Counters are bytes of 64-bit words: a similarity looks up the word with a one in its tier's byte, and adding the
    words of all behaviours counts eight tiers at once. Nothing of [n, L, tiers] exists.
    """
    assert len(behaviours) <= _COUNTER_MAX
    if not len(behaviours):
        return np.zeros((len(candidates), tiers), dtype=np.uint8)
    bits = candidates.shape[1] * 8
    left = np.ascontiguousarray(candidates).view(np.uint64)  # [n, m / 64]
    right = np.ascontiguousarray(behaviours).view(np.uint64)
    differing = np.bitwise_count(left[None, :, 0] ^ right[:, None, 0])  # [L, n] uint8
    if bits > 64:
        differing = differing.astype(np.uint16)
        for word in range(1, left.shape[1]):
            differing += np.bitwise_count(left[None, :, word] ^ right[:, None, word])
    counters = [np.take(ones, differing, mode="clip").sum(axis=0) for ones in _counter_words(bits, tiers)]
    return (
        np.stack(counters, axis=1).view(np.uint8)[:, :tiers] if counters else np.zeros((len(left), 0), dtype=np.uint8)
    )


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


def score(inputs: Floats, weights: Floats, bias: Floats, head: Head) -> Floats:
    """Scores in 0..1 ([n] float32) of input rows ([n, width]) under a request's first layer ([width, h1], [h1])."""
    hidden = inputs @ weights
    hidden += bias
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
