"""The kernel in C (native/*.c): what it is given, and which of its three variants runs on this processor.

The library is built when the package is installed, if there is a C compiler; nothing else in the project needs one. It
is plain C behind ctypes, which releases the GIL for the time of a call. A user is packed into arrays in the form that
the variant wants, with a `Request` that points at them; scoring allocates only its answer and a block of scratch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.bf16 import to_bf16
from domain.tiers import tier_values
from schemas.errors import BadInput
from serving.kernels.bits import edges, group_masks, word_order, words
from serving.kernels.head import Floats, Folded, Head
from serving.kernels.plain import Plain, PlainPrepared

__all__ = ["VARIANTS", "Native", "NativePrepared", "Variant"]

_ABI: Final = 2  #: AIF_ABI of native/request.h
_MOST_BITS: Final = 256  #: MAX_WORDS of native/request.h
_LINE: Final = 64
_MOST_SUM: Final = np.iinfo(np.int16).max

_NUMBERS: Final = (
    "stride", "vector_at", "bridges_at", "signature_at", "flags_at", "category_at",
    "vector_dim", "bridges", "words", "tiers", "groups", "hidden1", "hidden2", "buckets",
    "blocks", "attended", "categories", "columns_model", "columns_user", "signs",
)  # fmt: skip
_POINTERS: Final = (
    "model_weight", "weight2", "bias2", "weight3", "attention", "edges",
    "user_weight", "sign_weight", "sign_scale", "start", "category_buckets", "planes", "masks", "totals", "tier_values",
    "attended_words",
)  # fmt: skip

_Arrays = dict[str, npt.NDArray[Any]]


class _Request(ctypes.Structure):
    """native/request.h."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in _NUMBERS],
        ("b3", ctypes.c_float),
        *[(name, ctypes.c_void_p) for name in _POINTERS],
    ]  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One compilation of the kernel."""

    name: str
    number: int  #: in aif_runs
    lanes: int  #: 64-bit words of its vectors of bits
    tile: int  #: columns of weights that stand together
    halves: bool  #: inputs and weights are bfloat16, two inputs side by side; else float32


#: Best first.
VARIANTS: Final = (
    Variant("avx512", 2, 8, 64, True),
    Variant("avx2", 1, 4, 16, False),
    Variant("plain", 0, 2, 8, False),
)


class Native:
    """The kernel in C. Raises BadInput where there is none; `variant` names one, else the best that runs is taken."""

    def __init__(self, variant: str | None = None) -> None:
        library = _library()
        running = [each for each in VARIANTS if library.aif_runs(each.number) and variant in (None, each.name)]
        if not running:
            raise BadInput(f"this processor does not run variant {variant} of it")
        self.variant = running[0]
        self.name = f"c ({self.variant.name})"
        self._library = library
        self._score = getattr(library, f"aif_score_{self.variant.name}")

    def prepare(self, head: Head, sizes: Dimensions, folded: Folded) -> NativePrepared | PlainPrepared:
        """Pack a user. Signatures of more than 256 bits are left to numpy."""
        if sizes.signature_bits > _MOST_BITS:
            return Plain().prepare(head, sizes, folded)
        numbers, model = _of_model(head, sizes, self.variant)
        own, user = self._of_user(sizes, folded)
        request = _Request(**numbers, **own, b3=head.b3.item())
        for name, array in (model | user).items():
            setattr(request, name, array.ctypes.data)
        return NativePrepared(self._score, request, model, user, sizes.layout.stride)

    def _of_user(self, sizes: Dimensions, folded: Folded) -> tuple[dict[str, int], _Arrays]:
        variant, width, (h1, _) = self.variant, sizes.signature_bits // 64, sizes.hidden
        signed = np.flatnonzero(folded.attended_signed)
        weight = np.concatenate((folded.bridge_weight, folded.attention_weight[signed]))  # [n + attended, h1]
        signs, scale = _signs(folded.signature_weight[word_order(sizes.sign_columns)], variant)
        categories = np.flatnonzero(folded.categories)
        start = np.tile(_widened(folded.bias, variant.tile), (len(categories) + 1, 1))
        start[:-1, :h1] += folded.category_weight[categories]
        attended = np.zeros((width, _rounded(len(signed), 16)), dtype=np.uint64)
        attended[:, : len(signed)] = words(folded.attended[signed]).T
        totals = np.array([len(group) for group in folded.groups], dtype=np.int32)
        planes, masks = self._planes(folded.groups, totals, width)
        values = tier_values(np.arange(int(totals.max(initial=0)) + 1))
        arrays = {
            "user_weight": _packed(weight, variant),
            "sign_weight": signs,
            "sign_scale": scale,
            "start": start,
            "category_buckets": folded.categories[categories].astype(np.int32),
            "planes": planes,
            "masks": masks,
            "totals": totals,
            "tier_values": to_bf16(values) if variant.halves else values,
            "attended_words": attended,
        }
        numbers = {
            "blocks": len(planes),
            "attended": len(signed),
            "categories": len(categories),
            "columns_user": _rounded(len(weight), 2),
            "signs": int(sizes.din),
        }
        return numbers, arrays

    def _planes(
        self, groups: tuple[npt.NDArray[np.uint8], ...], totals: npt.NDArray[np.int32], width: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Bits of all groups' behaviours laid across ([blocks, words, 64, lanes]), and the groups' masks."""
        lanes, count = self.variant.lanes, int(totals.sum())
        assert count <= np.iinfo(np.uint16).max  # what counters hold
        blocks = -(-count // (64 * lanes))
        planes = _aligned((blocks, width, 64, lanes), np.uint64)
        signatures = words(np.concatenate(groups)) if groups else np.zeros((0, width), dtype=np.uint64)
        self._library.aif_planes(signatures.ctypes.data, count, width, lanes, planes.ctypes.data)
        return planes, group_masks(totals, blocks, lanes)


@dataclass(frozen=True, eq=False)
class NativePrepared:
    """A user packed for C."""

    _score: Any
    _request: _Request
    _model: _Arrays  #: kept alive: the request points at them
    _user: _Arrays
    _stride: int

    @property
    def nbytes(self) -> int:
        """Bytes of the user's own arrays."""
        return sum(array.nbytes for array in self._user.values())

    def score(self, rows: npt.NDArray[np.uint8]) -> Floats:
        """Probabilities ([n] float32) of candidates' records ([n, stride] uint8, C-contiguous)."""
        assert rows.flags.c_contiguous and rows.shape[1] == self._stride
        scores = np.empty(len(rows), dtype=np.float32)
        if self._score(ctypes.byref(self._request), rows.ctypes.data, len(rows), scores.ctypes.data):
            raise MemoryError("no memory for the blocks that scores are computed in")
        return scores


@lru_cache(maxsize=1)
def _library() -> Any:
    """The compiled library, once its interface is known to be the one above. Raises BadInput."""
    places = [Path(__file__).with_name(f"_native{suffix}") for suffix in EXTENSION_SUFFIXES]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise BadInput("it is not built; install a C compiler and the package again (`make install` in a checkout)")
    try:
        library = ctypes.CDLL(str(found))
        abi, size = library.aif_abi(), library.aif_request_bytes()
    except (OSError, AttributeError) as error:
        raise BadInput(f"{found.name} cannot be loaded: {error}; install the package again") from error
    if (abi, size) != (_ABI, ctypes.sizeof(_Request)):
        raise BadInput(f"{found.name} is of other sources (interface {abi}, not {_ABI}); install the package again")
    library.aif_planes.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p]
    library.aif_planes.restype = None
    for variant in VARIANTS:
        if library.aif_runs(variant.number):
            score = getattr(library, f"aif_score_{variant.name}")
            score.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    return library


@lru_cache(maxsize=4)
def _of_model(head: Head, sizes: Dimensions, variant: Variant) -> tuple[dict[str, int], _Arrays]:
    """What all users of a model share."""
    fields: Any = sizes.layout.dtype.fields
    bits, tiers, (h1, h2) = sizes.signature_bits, sizes.tiers, sizes.hidden
    weight = np.concatenate((head.vector_weight, head.tier_weight))
    hidden1, hidden2 = _rounded(h1, variant.tile), _rounded(h2, variant.tile)
    second = np.zeros((hidden1, h2), dtype=np.float32)
    second[:h1] = head.w2
    numbers = {
        "stride": sizes.layout.stride,
        **{f"{part}_at": fields[name][1] for part, name in _FIELDS.items()},
        "vector_dim": sizes.vector_dim, "bridges": sizes.bridges, "words": bits // 64, "tiers": tiers,
        "groups": len(sizes.tier_groups), "hidden1": hidden1, "hidden2": hidden2,
        "buckets": sizes.category_buckets, "columns_model": _rounded(len(weight), 2),
    }  # fmt: skip
    arrays = {
        "model_weight": _packed(weight, variant),
        "weight2": _packed(second, variant),
        "bias2": _widened(head.b2, variant.tile),
        "weight3": _widened(head.w3, variant.tile),
        "attention": np.ascontiguousarray(head.attention_table[::-1]),
        "edges": edges(bits, tiers),
    }
    return numbers, arrays


_FIELDS: Final = {
    "vector": "vector", "bridges": "bridges", "signature": "signature", "flags": "flags", "category": "category_id",
}  # fmt: skip


def _packed(weight: Floats, variant: Variant) -> npt.NDArray[Any]:
    """Weights ([columns, h]) as a variant reads them: [tile of h][columns / 2][tile][2] bfloat16, or
    [tile of h][columns][tile] float32, both sizes padded with zeros."""
    columns, h = weight.shape
    padded = np.zeros((_rounded(columns, 2), _rounded(h, variant.tile)), dtype=np.float32)
    padded[:columns, :h] = weight
    if variant.halves:
        packed: npt.NDArray[Any] = to_bf16(padded).reshape(len(padded) // 2, 2, -1, variant.tile).transpose(2, 0, 3, 1)
    else:
        packed = padded.reshape(len(padded), -1, variant.tile).transpose(1, 0, 2)
    aligned = _aligned(packed.shape, packed.dtype)
    aligned[...] = packed
    return aligned


def _signs(weight: Floats, variant: Variant) -> tuple[npt.NDArray[Any], Floats]:
    """Weights of signs ([bits, h1]) as a variant adds them up, [tile of h1][bits][tile], and the scale of sums
    ([h1 padded] float32): float32 of scale 1, or int16 in the smallest unit in which no sum of them overflows.

    A column that is not finite has a scale that is not, so that its scores are none either.
    """
    bits, h1 = weight.shape
    padded = np.zeros((bits, _rounded(h1, variant.tile)), dtype=np.float32)
    padded[:, :h1] = weight
    units: npt.NDArray[Any] = padded
    scale = np.ones(padded.shape[1], dtype=np.float32)
    if variant.halves:
        scale = np.abs(padded).sum(axis=0) / np.float32(_MOST_SUM - bits)  # a sum rounds by half a unit for each bit
        with np.errstate(invalid="ignore"):
            units = np.rint(np.nan_to_num(padded / np.where(scale == 0, 1, scale))).astype(np.int16)
    packed = _aligned((padded.shape[1] // variant.tile, bits, variant.tile), units.dtype)
    packed[...] = units.reshape(bits, len(packed), variant.tile).transpose(1, 0, 2)
    return packed, scale


def _widened(values: Floats, tile: int) -> Floats:
    """A row ([h] float32) padded with zeros to whole tiles."""
    wide = np.zeros(_rounded(len(values), tile), dtype=np.float32)
    wide[: len(values)] = values
    return wide


def _rounded(count: int, to: int) -> int:
    return -(-count // to) * to


def _aligned(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Zeros that begin on a line of the cache: vectors that cross two lines take twice as long to load."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _LINE
    aligned: npt.NDArray[Any] = raw[start : start + size].view(dtype).reshape(shape)
    return aligned
