"""The kernel in numba, for installations without a C compiler: float32 throughout.

Similarities are counted as in native/tiers.h, which says how: bits laid across behaviours, tables of three bits, full
adders. Matrices are numpy's. Machine code is kept on disk (domain/compiled.py); `Compiled()` loads or makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from domain.artifact import Dimensions
from domain.compiled import njit
from domain.item_features import category_buckets
from domain.n2o import Flag
from domain.tiers import tier_values
from serving.kernels.bits import edges, group_masks, word_order, words
from serving.kernels.head import Floats, Folded, Head, Precision

__all__ = ["Compiled", "CompiledPrepared"]

_LANES: Final = 8  #: 64-bit words of a block of behaviours
_THREES: Final = 21  #: groups of three bits in a word; one bit is left
_ENTRIES: Final = _THREES * 16 + 2  #: of a word's table: [group][value][ones, twos], then the last bit's two
_CHUNK: Final = 1024  #: candidates at a time: their input rows stay in L2
_HAS_SIGNATURE: Final = int(Flag.HAS_SIGNATURE)


class Compiled:
    """The kernel in numba. Loads its machine code; where there is none yet, compiling takes some seconds."""

    name: Final = "numba"
    precision: Final[Precision] = "float32"

    def __init__(self) -> None:
        _warm()

    def prepare(self, head: Head, sizes: Dimensions, folded: Folded) -> CompiledPrepared:
        """A user's first layer as one matrix, and bits laid across behaviours."""
        bits = sizes.signature_bits
        signed = np.flatnonzero(folded.attended_signed)
        weights = np.concatenate(
            (
                head.vector_weight, folded.bridge_weight, folded.signature_weight[word_order(sizes.sign_columns)],
                head.tier_weight, folded.attention_weight[signed],
            )
        )  # fmt: skip
        categories = np.flatnonzero(folded.categories)
        start = np.tile(folded.bias, (len(categories) + 1, 1))
        start[:-1] += folded.category_weight[categories]
        slots = np.full(sizes.category_buckets, len(categories), dtype=np.int64)
        slots[folded.categories[categories]] = np.arange(len(categories))
        totals = np.array([len(group) for group in folded.groups], dtype=np.int32)
        planes = _planes(np.concatenate(folded.groups)) if len(totals) else np.zeros((0, bits // 64, 64, _LANES), "<u8")
        return CompiledPrepared(
            head=head, sizes=sizes, weights=weights, start=start, slots=slots, planes=planes,
            masks=group_masks(totals, len(planes), _LANES), totals=totals,
            values=tier_values(np.arange(int(totals.max(initial=0)) + 1)),
            edges=edges(bits, sizes.tiers), attended=words(folded.attended[signed]),
            attention=np.ascontiguousarray(head.attention_table[::-1]),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class CompiledPrepared:
    """A user packed for the functions below."""

    head: Head
    sizes: Dimensions
    weights: Floats  #: [width, h1] of vector, bridges, signs, tiers, signed attended behaviours
    start: Floats  #: [K + 1, h1] bias plus each category's row, the last one bias alone
    slots: npt.NDArray[np.int64]  #: [buckets] row of `start`
    planes: npt.NDArray[np.uint64]  #: [blocks, words, 64, _LANES]
    masks: npt.NDArray[np.uint64]  #: [blocks, G, _LANES]
    totals: npt.NDArray[np.int32]  #: [G]
    values: Floats  #: of counts
    edges: npt.NDArray[np.uint16]
    attended: npt.NDArray[np.uint64]  #: [signed, words]
    attention: Floats  #: [m + 1] by differing bits

    @property
    def nbytes(self) -> int:
        """Bytes of the user's own arrays."""
        return sum(each.nbytes for each in vars(self).values() if isinstance(each, np.ndarray))

    def score(self, rows: npt.NDArray[np.uint8]) -> Floats:
        """Probabilities ([n] float32) of candidates' records ([n, stride] uint8)."""
        scores = np.empty(len(rows), dtype=np.float32)
        inputs = np.empty((min(len(rows), _CHUNK), len(self.weights)), dtype=np.float32)
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            self._score_chunk(chunk, inputs[: len(chunk)], scores[first : first + len(chunk)])
        return scores

    def _score_chunk(self, rows: npt.NDArray[np.uint8], inputs: Floats, scores: Floats) -> None:
        sizes, head = self.sizes, self.head
        records = rows.view(sizes.layout.dtype)[:, 0]
        signatures, flags = words(records["signature"]), records["flags"]
        counters = np.zeros((len(rows), len(self.totals), sizes.tiers + 1), dtype=np.int32)
        if sizes.tiers > 1:
            _count_tiers(signatures, self.planes, self.masks, self.edges, sizes.signature_bits.bit_length(), counters)
        _assemble(
            records["vector"], records["bridges"], flags & _HAS_SIGNATURE != 0, signatures, counters, self.totals,
            self.values, self.attended, self.attention, sizes.sign_columns // 64, inputs.view(np.uint32), inputs,
        )  # fmt: skip
        own = self.slots[
            category_buckets(records["category_id"], flags & Flag.HAS_CATEGORY != 0, sizes.category_buckets)
        ]
        hidden = inputs @ self.weights
        _add_rows(hidden, self.start, own)
        _finish(hidden @ head.w2, head.b2, head.w3, head.b3.item(), scores)


def _planes(signatures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Bits laid across behaviours ([l, m / 8] -> [blocks, m / 64, 64, _LANES], bits in the order of words)."""
    count, width = signatures.shape
    blocks = -(-count // (64 * _LANES))
    bits = np.zeros((blocks * 64 * _LANES, width * 8), dtype=np.uint8)
    bits[:count] = np.unpackbits(signatures, axis=1, bitorder="little")
    across = bits.reshape(blocks, 64 * _LANES, width * 8).transpose(0, 2, 1)
    packed = np.ascontiguousarray(np.packbits(across, axis=2, bitorder="little"))
    return packed.view("<u8").reshape(blocks, width // 8, 64, _LANES)


@intrinsic
def _ones(typing_context: Any, value: Any) -> Any:
    """Number of ones of a word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(nogil=True)
def _build_word(planes: Any, valid: Any, table: Any) -> None:
    """A word's table of one block: equal bits with each of the 8 values of each three bits, in two planes."""
    for group in range(_THREES):
        for value in range(8):
            flip_a = np.uint64(0) - np.uint64(1 - (value & 1))
            flip_b = np.uint64(0) - np.uint64(1 - (value >> 1 & 1))
            flip_c = np.uint64(0) - np.uint64(1 - (value >> 2 & 1))
            at = group * 16 + value * 2
            for lane in range(_LANES):
                a = planes[3 * group, lane] ^ flip_a
                b = planes[3 * group + 1, lane] ^ flip_b
                c = planes[3 * group + 2, lane] ^ flip_c
                table[at, lane] = (a ^ b ^ c) & valid[lane]
                table[at + 1, lane] = ((a & b) | (c & (a | b))) & valid[lane]
    for lane in range(_LANES):
        table[_ENTRIES - 2, lane] = ~planes[63, lane] & valid[lane]
        table[_ENTRIES - 1, lane] = planes[63, lane] & valid[lane]


@njit(nogil=True, inline="always")
def _add(a: Any, b: Any, c: Any) -> Any:
    """(sum, carry) of three bits, 64 times."""
    either = a ^ b
    return either ^ c, (a & b) | (either & c)


@njit(nogil=True, inline="always")
def _entry(word: Any, group: int) -> Any:
    """Where a word's three bits stand in its table."""
    return np.uint64(group * 16) + (word >> np.uint64(3 * group) & np.uint64(7)) * np.uint64(2)


@njit(nogil=True, inline="always")
def _add_four(ones: Any, twos: Any, table: Any, word: Any, first: int, lane: int) -> Any:
    """Add four groups' numbers to ones and twos; three carries of weight 4 come out."""
    a, b, c, d = _entry(word, first), _entry(word, first + 1), _entry(word, first + 2), _entry(word, first + 3)
    ones, two_a = _add(ones, table[a, lane], table[b, lane])
    twos, x = _add(twos, table[a + 1, lane], table[b + 1, lane])
    ones, two_b = _add(ones, table[c, lane], table[d, lane])
    twos, y = _add(twos, table[c + 1, lane], table[d + 1, lane])
    twos, z = _add(twos, two_a, two_b)
    return ones, twos, x, y, z


@njit(nogil=True, inline="always")
def _word_at(table: Any, word: Any, lane: int) -> Any:
    """Equal bits of one word with 64 behaviours: 7 planes, least significant first."""
    ones, twos = table[np.uint64(_ENTRIES - 2) + (word >> np.uint64(63)), lane], np.uint64(0)
    ones, twos, x1, y1, z1 = _add_four(ones, twos, table, word, 0, lane)
    ones, twos, x2, y2, z2 = _add_four(ones, twos, table, word, 4, lane)
    fours, a = _add(x1, y1, z1)
    fours, b = _add(fours, x2, y2)
    ones, twos, x1, y1, z1 = _add_four(ones, twos, table, word, 8, lane)
    fours, c = _add(fours, z2, x1)
    fours, d = _add(fours, y1, z1)
    ones, twos, x1, y1, z1 = _add_four(ones, twos, table, word, 12, lane)
    ones, twos, x2, y2, z2 = _add_four(ones, twos, table, word, 16, lane)
    fours, e = _add(fours, x1, y1)
    fours, f = _add(fours, z1, x2)
    fours, g = _add(fours, y2, z2)
    ones, more = _add(ones, table[_entry(word, 20), lane], np.uint64(0))
    twos, four = _add(twos, table[_entry(word, 20) + np.uint64(1), lane], more)
    fours, h = _add(fours, four, np.uint64(0))
    eights, x1 = _add(a, b, c)
    eights, y1 = _add(eights, d, e)
    eights, z1 = _add(eights, f, g)
    eights, more = _add(eights, h, np.uint64(0))
    sixteens, x2 = _add(x1, y1, z1)
    sixteens, y2 = _add(sixteens, more, np.uint64(0))
    return ones, twos, fours, eights, sixteens, x2 ^ y2, x2 & y2


@njit(nogil=True)
def _count_eight(table: Any, word: Any, mask: Any, counters: Any) -> None:
    """Eight tiers of 64 bits, the default: behaviours of a mask that reach tiers 1 to 7, added to counters[1:8].

    Nothing is stored in the loop, or LLVM would not turn lanes into vectors: it could not know what overlaps.
    """
    n1 = n2 = n3 = n4 = n5 = n6 = n7 = np.uint64(0)
    for lane in range(_LANES):
        planes = _word_at(table, word, lane)
        b0, b1, b2 = planes[3] | planes[6], planes[4] | planes[6], planes[5] | planes[6]
        b0, b1, b2 = b0 & mask[lane], b1 & mask[lane], b2 & mask[lane]
        n1 += _ones(b0 | b1 | b2)
        n2 += _ones(b1 | b2)
        n3 += _ones((b0 & b1) | b2)
        n4 += _ones(b2)
        n5 += _ones((b0 | b1) & b2)
        n6 += _ones(b1 & b2)
        n7 += _ones(b0 & b1 & b2)
    counters[1] += n1
    counters[2] += n2
    counters[3] += n3
    counters[4] += n4
    counters[5] += n5
    counters[6] += n6
    counters[7] += n7


@njit(nogil=True)
def _count_any(tables: Any, signature: Any, masks: Any, edges: Any, sums: Any, counters: Any) -> None:
    """Any tiers and bits: behaviours of each mask that reach each edge, added to counters[:, 1:]. `sums` is scratch."""
    for lane in range(_LANES):
        sums[:] = 0
        for word in range(len(tables)):
            carry = np.uint64(0)
            more = _word_at(tables[word], signature[word], lane)
            for plane in range(7):
                sums[plane], carry = _add(sums[plane], more[plane], carry)
            for plane in range(7, len(sums)):
                sums[plane], carry = _add(sums[plane], carry, np.uint64(0))
        for edge in range(len(edges)):
            reached = ~np.uint64(0)  # the carry out of sum + ~edge + 1
            for plane in range(len(sums)):
                if edges[edge] >> plane & 1:
                    reached &= sums[plane]
                else:
                    reached |= sums[plane]
            for group in range(len(masks)):
                counters[group, edge + 1] += _ones(reached & masks[group, lane])


@njit(nogil=True)
def _count_tiers(signatures: Any, planes: Any, masks: Any, edges: Any, bits: int, counters: Any) -> None:
    """counters [n, G, T + 1] of zeros: at t how many behaviours of a group reach tier t, for 1 <= t < T."""
    blocks, width = planes.shape[0], planes.shape[1]
    tables = np.empty((width, _ENTRIES, _LANES), dtype=np.uint64)
    sums, valid = np.empty(bits, dtype=np.uint64), np.empty(_LANES, dtype=np.uint64)
    eight = width == 1 and len(edges) == 7
    for block in range(blocks):
        valid[:] = 0
        for group in range(masks.shape[1]):
            valid |= masks[block, group]
        for word in range(width):
            _build_word(planes[block, word], valid, tables[word])
        if not eight:
            for candidate in range(len(signatures)):
                _count_any(tables, signatures[candidate], masks[block], edges, sums, counters[candidate])
            continue
        for group in range(masks.shape[1]):
            if masks[block, group].any():
                for candidate in range(len(signatures)):
                    word = signatures[candidate, 0]
                    _count_eight(tables[0], word, masks[block, group], counters[candidate, group])


@njit(nogil=True)
def _assemble(
    vectors: Any, bridges: Any, signed: Any, signatures: Any, counters: Any, totals: Any, values: Any,
    attended: Any, attention: Any, sign_words: int, raw: Any, inputs: Any,
) -> None:  # fmt: skip
    """Input rows ([n, width] float32 `inputs`, and as uint32 `raw`): vector, bridges, signs, tiers, attention."""
    d, n, width, tiers = vectors.shape[1], bridges.shape[1], signatures.shape[1], counters.shape[2] - 1
    first_sign, first_tier = d + n, d + n + 64 * sign_words
    first_weight = first_tier + len(totals) * tiers
    for candidate in range(len(vectors)):
        for each in range(d):
            raw[candidate, each] = np.uint32(vectors[candidate, each]) << np.uint32(16)
        for each in range(n):
            raw[candidate, d + each] = np.uint32(bridges[candidate, each]) << np.uint32(16)
        if not signed[candidate]:
            inputs[candidate, first_sign:] = 0
            continue
        for word in range(sign_words):
            bits = signatures[candidate, word]
            for bit in range(64):
                sign = np.uint32(0xBF800000) ^ np.uint32((bits >> np.uint64(bit) & np.uint64(1)) << np.uint64(31))
                raw[candidate, first_sign + word * 64 + bit] = sign
        for group in range(len(totals)):
            above = totals[group]
            for tier in range(tiers):
                next_above = counters[candidate, group, tier + 1]
                inputs[candidate, first_tier + group * tiers + tier] = values[above - next_above]
                above = next_above
        total = np.float32(0)
        for each in range(len(attended)):
            differing = np.uint64(0)
            for word in range(width):
                differing += _ones(attended[each, word] ^ signatures[candidate, word])
            inputs[candidate, first_weight + each] = attention[differing]
            total += attention[differing]
        scale = np.float32(1) / total if total > 0 else np.float32(0)
        for each in range(len(attended)):
            inputs[candidate, first_weight + each] *= scale


@njit(nogil=True)
def _add_rows(hidden: Any, rows: Any, own: Any) -> None:
    """relu(hidden + rows[own]) in place; NaN stays."""
    for candidate in range(len(hidden)):
        row = rows[own[candidate]]
        for each in range(hidden.shape[1]):
            value = hidden[candidate, each] + row[each]
            hidden[candidate, each] = np.float32(0) if value < 0 else value


@njit(nogil=True)
def _finish(hidden: Any, bias: Any, weight: Any, last_bias: float, scores: Any) -> None:
    """The last layer and the logistic function; the exponent is of a negative number only."""
    for candidate in range(len(hidden)):
        logit = np.float32(last_bias)
        for each in range(len(bias)):
            value = hidden[candidate, each] + bias[each]
            logit += weight[each] * (np.float32(0) if value < 0 else value)
        small = np.exp(-np.abs(logit))
        scores[candidate] = (np.float32(1) if logit >= 0 else small) / (np.float32(1) + small)


@lru_cache(maxsize=1)
def _warm() -> None:
    """Score nothing much once, so that all functions are compiled for their types."""
    sizes = Dimensions(
        embedding_dim=1, signature_bits=64, category_buckets=2, item_numeric=1, vector_dim=1, bridges=1, tiers=2,
        tier_groups=(("click",),), behaviours=1, attention=True, long_behaviours=1, cross_categories=1,
        user_features=1, hidden=(1, 1),
    )  # fmt: skip
    head = Head(**{name: np.ones(shape, dtype=np.float32) for name, shape in sizes.head_shapes.items()}, version_tag=0)
    row, signature = np.ones((1, 1), dtype=np.float32), np.zeros((1, 8), dtype=np.uint8)
    folded = Folded(
        row[0], row, np.ones((64, 1), dtype=np.float32), row, row, (signature,), signature,
        np.ones(1, dtype=np.bool_), np.ones(1, dtype=np.int64), 0,
    )  # fmt: skip
    kernel = object.__new__(Compiled)
    for rows in (np.zeros((1, sizes.layout.stride), dtype=np.uint8), np.zeros((2, sizes.layout.stride), np.uint8)):
        kernel.prepare(head, sizes, folded).score(rows)
