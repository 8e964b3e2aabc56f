"""The kernel in C (native/*.c): what it is given, and which of its variants runs on this processor.

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
from domain.tiers import tier_values
from schemas.errors import BadInput
from serving.kernels.bits import edges, group_masks, word_order, words
from serving.kernels.head import Floats, Folded, Head, Precision
from serving.kernels.packing import Variant, aligned, packed, packed_signs, rounded_up, widened
from serving.kernels.plain import Plain, PlainPrepared

__all__ = ["VARIANTS", "Native", "NativePrepared"]

_ABI: Final = 3  #: AIF_ABI of native/request.h
_MOST_BITS: Final = 256  #: MAX_WORDS of native/request.h
_MOST_INPUT: Final = 255  #: inputs of int8 in 0..1 count 255ths

_NUMBERS: Final = (
    "stride", "vector_at", "bridges_at", "signature_at", "flags_at", "category_at",
    "vector_dim", "bridges", "words", "tiers", "groups", "hidden1", "hidden2", "buckets",
    "blocks", "attended", "categories", "columns_model", "columns_user", "signs",
)  # fmt: skip
_POINTERS: Final = (
    "model_weight", "weight2", "bias2", "weight3", "attention", "edges", "model_scale", "model_start", "scale2",
    "user_weight", "user_scale", "sign_weight", "sign_scale", "start", "category_buckets", "planes", "masks", "totals",
    "tier_values", "attended_words",
)  # fmt: skip

_Arrays = dict[str, npt.NDArray[Any]]


class _Request(ctypes.Structure):
    """native/request.h."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in _NUMBERS],
        ("b3", ctypes.c_float),
        ("tier_scale", ctypes.c_float),
        *[(name, ctypes.c_void_p) for name in _POINTERS],
    ]  # fmt: skip


#: Fastest first.
VARIANTS: Final = (
    Variant("avx512_int8", 3, lanes=8, tile=64, precision="int8"),
    Variant("avx512", 2, lanes=8, tile=64, precision="bfloat16"),
    Variant("avx2", 1, lanes=4, tile=16, precision="float32"),
    Variant("plain", 0, lanes=2, tile=8, precision="float32"),
)


class Native:
    """The kernel in C. Raises BadInput where it does not run here.

    `variant` names one; else it is the fastest that runs, of `precision` where that is given.
    """

    def __init__(self, variant: str | None = None, precision: Precision | None = None) -> None:
        library = _library()
        running = [
            each
            for each in VARIANTS
            if library.aif_runs(each.number) and variant in (None, each.name) and precision in (None, each.precision)
        ]
        if not running:
            wanted = f"variant {variant}" if variant else f"a variant of precision {precision}"
            raise BadInput(f"this processor does not run {wanted} of it")
        self.variant = running[0]
        self.precision: Precision = self.variant.precision
        self.name = f"c ({self.variant.name})"
        self._library = library
        self._score = getattr(library, f"aif_score_{self.variant.name}")

    def prepare(self, head: Head, sizes: Dimensions, folded: Folded) -> NativePrepared | PlainPrepared:
        """Pack a user. Signatures of more than 256 bits are left to numpy."""
        if sizes.signature_bits > _MOST_BITS:
            return Plain().prepare(head, sizes, folded)
        numbers, model = _of_model(head, sizes, self.variant)
        own, user = self._of_user(head, sizes, folded)
        request = _Request(**numbers, **own, b3=head.b3.item())
        for name, array in (model | user).items():
            setattr(request, name, array.ctypes.data)
        return NativePrepared(self._score, request, model, user, sizes.layout.stride)

    def _of_user(self, head: Head, sizes: Dimensions, folded: Folded) -> tuple[dict[str, float], _Arrays]:
        variant, width, (h1, _) = self.variant, sizes.signature_bits // 64, sizes.hidden
        signed = np.flatnonzero(folded.attended_signed)
        signs, sign_scale = packed_signs(folded.signature_weight[word_order(sizes.sign_columns)], variant)
        categories = np.flatnonzero(folded.categories)
        start = np.tile(widened(folded.bias, variant.tile), (len(categories) + 1, 1))
        start[:-1, :h1] += folded.category_weight[categories]
        attended = np.zeros((width, rounded_up(len(signed), 16)), dtype=np.uint64)
        attended[:, : len(signed)] = words(folded.attended[signed]).T
        totals = np.array([len(group) for group in folded.groups], dtype=np.int32)
        planes, masks = self._planes(folded.groups, totals, width)
        values = tier_values(np.arange(int(totals.max(initial=0)) + 1))
        most = max(1.0, float(values[-1])) if variant.precision == "int8" else 1.0  # inputs of int8 lie in 0..1
        tiers = head.tier_weight * np.float32(most)
        columns = packed(np.concatenate((tiers, folded.bridge_weight, folded.attention_weight[signed])), variant)
        arrays = {
            "user_weight": columns.weight,
            "user_scale": columns.scale / np.float32(_MOST_INPUT),
            "sign_weight": signs,
            "sign_scale": sign_scale,
            "start": start,
            "category_buckets": folded.categories[categories].astype(np.int32),
            "planes": planes,
            "masks": masks,
            "totals": totals,
            "tier_values": values,
            "attended_words": attended,
        }
        numbers: dict[str, float] = {
            "blocks": len(planes),
            "attended": len(signed),
            "categories": len(categories),
            "columns_user": columns.columns,
            "tier_scale": 1 / most,
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
        planes = aligned((blocks, width, 64, lanes), np.uint64)
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
    hidden1, hidden2 = rounded_up(h1, variant.tile), rounded_up(h2, variant.tile)
    second = np.zeros((hidden1, h2), dtype=np.float32)
    second[:h1] = head.w2
    vector, weight2 = packed(head.vector_weight, variant), packed(second, variant)
    numbers = {
        "stride": sizes.layout.stride,
        **{f"{part}_at": fields[name][1] for part, name in _FIELDS.items()},
        "vector_dim": sizes.vector_dim, "bridges": sizes.bridges, "words": bits // 64, "tiers": tiers,
        "groups": len(sizes.tier_groups), "hidden1": hidden1, "hidden2": hidden2,
        "buckets": sizes.category_buckets, "columns_model": vector.columns,
    }  # fmt: skip
    arrays = {
        "model_weight": vector.weight,
        "model_scale": vector.scale,
        "model_start": vector.start,
        "weight2": weight2.weight,
        "scale2": weight2.scale,
        "bias2": widened(head.b2, variant.tile),
        "weight3": widened(head.w3, variant.tile),
        "attention": np.ascontiguousarray(head.attention_table[::-1]),
        "edges": edges(bits, tiers),
    }
    return numbers, arrays


_FIELDS: Final = {
    "vector": "vector", "bridges": "bridges", "signature": "signature", "flags": "flags", "category": "category_id",
}  # fmt: skip
