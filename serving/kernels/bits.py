"""Signatures as compiled kernels compare them: words, bits laid across behaviours, edges between tiers."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["edges", "group_masks", "word_order", "words"]

_WORD: Final = 64


def words(signatures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Packed signatures ([l, m / 8]) as little-endian words ([l, m / 64])."""
    return np.ascontiguousarray(signatures).view("<u8")


def word_order(bits: int) -> npt.NDArray[np.int64]:
    """For every bit of little-endian words, its place in the signature, which has the most significant bit first."""
    place = np.arange(bits)
    return place // 8 * 8 + 7 - place % 8


def edges(bits: int, tiers: int) -> npt.NDArray[np.uint16]:
    """Equal bits from which tiers 1, 2, ... begin ([tiers - 1]); tier 0 begins at 0."""
    tier_of = np.minimum(tiers - 1, np.arange(bits + 1) * tiers // bits)
    return np.searchsorted(tier_of, np.arange(1, tiers)).astype(np.uint16)


def group_masks(totals: npt.NDArray[np.int32], blocks: int, lanes: int) -> npt.NDArray[np.uint64]:
    """Where each group stands when groups of `totals` behaviours follow one another in blocks of `lanes` words.

    ([blocks, groups, lanes]). They follow without gaps, so that they share blocks.
    """
    inside = np.zeros((len(totals), blocks * _WORD * lanes), dtype=np.bool_)
    ends = np.cumsum(totals)
    for group, end in enumerate(ends):
        inside[group, end - totals[group] : end] = True
    masks = np.packbits(inside, axis=1, bitorder="little").view("<u8").reshape(len(totals), blocks, lanes)
    return np.ascontiguousarray(masks.transpose(1, 0, 2))
