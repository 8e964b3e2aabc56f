"""Which implementation scores in this process: chosen once at its start, by what is built and what the processor has.

All have the interface below, and the same tests: C (built on installation where there is a compiler), numba, numpy.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from schemas.errors import BadInput
from serving.joining import ItemRows, one_version
from serving.kernels.head import Floats, Folded, Head, Precision
from serving.kernels.native import VARIANTS, Native
from serving.kernels.plain import Plain

__all__ = ["KERNELS", "Kernel", "Prepared", "PreparedUser", "available", "choose", "kernel", "prepare", "score_rows"]

#: Names that may be asked for: the fastest in C whatever it rounds, C of a precision, and float32 without C.
KERNELS: Final = ("c", "c-bfloat16", "c-float32", "numba", "numpy")
_C_OF: Final[dict[str | None, Precision]] = {"c-bfloat16": "bfloat16", "c-float32": "float32"}

_log = logging.getLogger(__name__)


class Prepared(Protocol):
    """Everything of one user and model that scoring reads. Never changes; any thread may score with it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the user's own arrays; those of the model, shared by all users, are left out."""

    def score(self, rows: npt.NDArray[np.uint8]) -> Floats:
        """Probabilities ([n] float32) of candidates' records ([n, stride] uint8, C-contiguous).

        A record of zeros scores as an item of which nothing is known. The GIL is released.
        """


class Kernel(Protocol):
    """An implementation."""

    @property
    def name(self) -> str:
        """What runs, for people: `c (avx512_int8)`, `c (avx512)`, `c (avx2)`, `c (plain)`, `numba` or `numpy`."""

    @property
    def precision(self) -> Precision:
        """What it keeps inputs and weights in."""

    def prepare(self, head: Head, sizes: Dimensions, folded: Folded) -> Prepared:
        """Everything that does not depend on candidates, once per user."""


@dataclass(frozen=True)
class PreparedUser:
    """A user and a head of one version, ready to score that version's rows."""

    version_tag: int
    form: Prepared  #: as the kernel wants it

    @property
    def nbytes(self) -> int:
        """Bytes of the user's own arrays."""
        return self.form.nbytes


_chosen: Kernel | None = None


def choose(name: str | None = None) -> Kernel:
    """Make the kernel of that name (None: the fastest that runs here) the one of this process, warm.

    Raises BadInput where it does not exist or does not run here.
    """
    global _chosen
    if name is not None and name not in KERNELS:
        raise BadInput(f"there is no kernel {name!r}: choose one of {', '.join(KERNELS)}")
    _chosen = _open(name)
    _log.info("scores are computed by kernel %s", _chosen.name)
    return _chosen


def kernel() -> Kernel:
    """The kernel of this process; the first call chooses the fastest where nothing was chosen."""
    return _chosen or choose()


def prepare(head: Head, sizes: Dimensions, folded: Folded) -> PreparedUser:
    """A user made ready for the kernel of this process. Raises VersionMismatch where head and user are unlike."""
    tag = one_version("a user's state", head=head.version_tag, user=folded.version_tag)
    return PreparedUser(tag, kernel().prepare(head, sizes, folded))


def score_rows(user: PreparedUser, rows: ItemRows) -> Floats:
    """Probabilities ([n] float32) of candidates' rows. Raises VersionMismatch where user and rows are unlike."""
    one_version("scores", user=user.version_tag, rows=rows.version_tag)
    return user.form.score(rows.raw)


def available() -> list[Kernel]:
    """Every kernel that runs here, all variants of C included, fastest first."""
    found: list[Kernel] = []
    for variant in VARIANTS:
        with suppress(BadInput):  # not built, or another processor: who looks sees what is in the list
            found.append(Native(variant.name))
    with suppress(BadInput):
        found.append(_open("numba"))
    return [*found, Plain()]


def _open(name: str | None) -> Kernel:
    if name == "numpy":
        return Plain()
    if name != "numba":
        try:
            return Native(precision=_C_OF.get(name))
        except BadInput as missing:
            if name is not None:
                raise BadInput(f"kernel {name} does not run here: {missing}") from missing
            _log.warning("kernel c does not run here, another one is several times slower: %s", missing)
    try:
        # Loaded only where it is used: numba takes half a second and 60 MB.
        compiled: Kernel = import_module("serving.kernels.compiled").Compiled()
    except ImportError as missing:
        if name == "numba":
            raise BadInput(
                f"kernel numba does not run here: {missing}; install the package's extra [serving]"
            ) from missing
        _log.warning("kernel numba does not run here: %s", missing)
        return Plain()
    return compiled
