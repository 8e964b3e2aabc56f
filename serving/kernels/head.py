"""What scoring is made of: the head's arrays, the same for all users, and a user folded into its first layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from schemas.errors import ArtifactError

__all__ = ["ROUNDING", "Floats", "Folded", "Head", "Precision"]

Floats = npt.NDArray[np.float32]
#: What a kernel keeps inputs, weights and the first hidden layer in; sums and the last layer are always float32.
Precision = Literal["float32", "bfloat16", "int8"]
#: By how much a chance may be away from float32's, for nothing but rounding.
ROUNDING: Final[Mapping[Precision, float]] = {"float32": 1e-4, "bfloat16": 2e-2, "int8": 3e-2}


@dataclass(frozen=True, eq=False)
class Head:
    """The head's plain arrays, float32: the part of the first layer that is the same for all users, and the rest.

    One object per loaded model: what kernels make of it is kept by identity.
    """

    vector_weight: Floats  #: [d, h1]
    tier_weight: Floats  #: [G * T, h1]
    attention_table: Floats  #: [m + 1], not negative: weight of a behaviour by its bits equal to the candidate's
    w2: Floats  #: [h1, h2]
    b2: Floats  #: [h2]
    w3: Floats  #: [h2]
    b3: Floats  #: []
    version_tag: int  #: the version that it is of

    @classmethod
    def of(cls, arrays: dict[str, npt.NDArray[Any]], sizes: Dimensions, version_tag: int) -> Head:
        """The head in `head.npz`. Raises ArtifactError naming the array whose shape or type is another."""
        for name, shape in sizes.head_shapes.items():
            found = arrays.get(name)
            if found is None or found.shape != shape or found.dtype != np.float32:
                what = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise ArtifactError(f"head.npz: {name} must be float32 {shape}, found {what}")
        if not ((arrays["attention_table"] >= 0) & np.isfinite(arrays["attention_table"])).all():
            raise ArtifactError("head.npz: attention_table must be finite and not negative")
        return cls(**{name: np.array(arrays[name], order="C") for name in sizes.head_shapes}, version_tag=version_tag)


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
    version_tag: int  #: the version whose graph folded them

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        own = sum(each.nbytes for each in vars(self).values() if isinstance(each, np.ndarray))
        return own + sum(each.nbytes for each in self.groups)
