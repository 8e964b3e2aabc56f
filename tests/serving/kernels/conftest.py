"""Made-up models, users and candidates of any sizes, for every kernel that runs on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.n2o import Flag
from schemas.records import ACTIONS
from serving.kernels import Folded, Head, Kernel, available, choice


@dataclass(frozen=True)
class Case:
    """A model, a user and candidates."""

    sizes: Dimensions
    head: Head
    folded: Folded
    rows: npt.NDArray[np.uint8]  #: [n, stride]


def fast_kernels() -> list[Kernel]:
    """All kernels but the oracle: each variant of C that is built and runs here, and numba."""
    return available()[:-1]


@contextmanager
def chosen(kernel: Kernel) -> Iterator[None]:
    """The kernel of this process, for a while."""
    before, choice._chosen = choice._chosen, kernel
    try:
        yield
    finally:
        choice._chosen = before


def made_up(
    seed: int, candidates: int, *, bits: int = 64, tiers: int = 8, groups: tuple[int, ...] = (24, 1000),
    attended: int = 32, categories: int = 16, vector_dim: int = 64, bridges: int = 16,
    hidden: tuple[int, int] = (128, 64), similar: bool = False, din: bool = True,
) -> Case:  # fmt: skip
    """Random weights that neither vanish nor saturate; `groups` are numbers of behaviours; some of everything is
    unsigned. With `similar`, candidates are behaviours with few bits flipped, or their opposites."""
    rng = np.random.default_rng(seed)
    names = tuple((ACTIONS[number % len(ACTIONS)],) for number in range(len(groups)))
    sizes = Dimensions(
        embedding_dim=8, signature_bits=bits, category_buckets=64, item_numeric=3, vector_dim=vector_dim,
        bridges=bridges, tiers=tiers, tier_groups=names, behaviours=max(attended, 1), attention=attended > 0,
        long_behaviours=10_000, cross_categories=categories, user_features=3, hidden=hidden, din=din,
    )  # fmt: skip

    def weights(*shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return np.asarray(rng.normal(0, scale / max(1, shape[0]) ** 0.5 if shape else 1, shape), dtype=np.float32)

    arrays = {name: weights(*shape) for name, shape in sizes.head_shapes.items()}
    arrays["attention_table"] = np.exp(np.arange(bits + 1, dtype=np.float32) * 10 / bits)
    h1, width = hidden[0], bits // 8
    past = [rng.integers(0, 256, (count, width), dtype=np.uint8) for count in groups]
    folded = Folded(
        weights(h1), weights(bridges, h1, scale=3), weights(bits, h1), weights(sizes.attended, h1, scale=3),
        weights(categories, h1, scale=2), tuple(past), rng.integers(0, 256, (sizes.attended, width), dtype=np.uint8),
        rng.random(sizes.attended) < 0.8, rng.permutation(64)[:categories].astype(np.int64), 1,
    )  # fmt: skip
    layout = sizes.layout
    records = layout.empty(candidates)
    layout.set_vectors(
        records, weights(candidates, vector_dim, scale=candidates**0.5),
        rng.dirichlet(np.ones(bridges), candidates).astype(np.float32),
    )  # fmt: skip
    records["signature"] = rng.integers(0, 256, (candidates, width))
    if similar and (known := np.concatenate([*past, folded.attended])).size:
        flipped = known[rng.integers(0, len(known), candidates)] ^ (1 << rng.integers(0, 8, (candidates, 1)))
        records["signature"] = np.where(rng.random((candidates, 1)) < 0.8, flipped, ~flipped)
    signed, in_category = rng.random(candidates) < 0.9, rng.random(candidates) < 0.9
    records["flags"] = Flag.HAS_SIGNATURE * signed | Flag.HAS_CATEGORY * in_category
    records["category_id"] = rng.integers(-50, 50, candidates)
    return Case(sizes, Head.of(arrays, sizes, 1), folded, records.view(np.uint8).reshape(candidates, layout.stride))
