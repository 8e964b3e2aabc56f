"""LSH signatures of multi-modal embeddings: signed random projections, compared by XNOR and popcount.

h(x) = 1[W x >= 0] with W of independent Gaussians, frozen for a deployment, so that a model push never recomputes a
signature. For bits s = +-1: sim(x, y) = popcount(XNOR) / m = (m + s_x . s_y) / 2m, and E[sim] = 1 - angle / pi
(Charikar 2002; AIF section on long-term behaviours, reconstructed in shared terms in docs/deviations.md).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["hyperplanes", "signatures", "signs", "similarity"]


@lru_cache(maxsize=4)
def hyperplanes(seed: int, bits: int, dim: int) -> npt.NDArray[np.float32]:
    """The frozen projection W ([bits, dim] float32): the same on every machine for the same arguments."""
    planes = np.random.Generator(np.random.PCG64(seed)).standard_normal((bits, dim), dtype=np.float64)
    frozen = planes.astype(np.float32)
    frozen.setflags(write=False)
    return frozen


def signatures(embeddings: npt.NDArray[np.float32], planes: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Packed signatures ([n, dim] float32 -> [n, bits / 8] uint8, most significant bit first).

    The projection is summed in float64 with a fixed order, so that a batch and a single row agree bit for bit.
    """
    projected = np.einsum("nd,bd->nb", embeddings.astype(np.float64), planes.astype(np.float64), optimize=False)
    return np.packbits(projected >= 0, axis=1)


def signs(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Bits as +-1 ([..., bits / 8] uint8 -> [..., bits] float32)."""
    return np.unpackbits(packed, axis=-1).astype(np.float32) * 2 - 1


def similarity(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Share of equal bits of every pair ([a, bits / 8], [b, bits / 8] uint8 -> [a, b] float32 in 0..1)."""
    bits = left.shape[-1] * 8
    differing = np.bitwise_count(left[:, None, :] ^ right[None, :, :]).sum(axis=-1, dtype=np.int32)
    return np.asarray((bits - differing) / np.float32(bits), dtype=np.float32)
