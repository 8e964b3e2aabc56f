"""What scoring costs, kernel by kernel and step by step: made-up users and candidates, rows at hand, one thread.

Neither the rows' retrieval nor the user phase is part of it. Time is CPU time of this thread, which other programs on
the machine disturb less than they disturb the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.machine import Cores, commit, machine
from domain.artifact import Dimensions
from domain.n2o import Flag
from serving.kernels import Folded, Head, Kernel, available, rank

__all__ = ["DEFAULT", "measure_kernels"]

#: The default model; what each action's group counts is the caller's.
DEFAULT: Final = Dimensions(
    embedding_dim=64, signature_bits=64, category_buckets=4096, item_numeric=1, vector_dim=64, bridges=16, tiers=8,
    tier_groups=(("click", "purchase"), ("impression",)), behaviours=32, attention=True, long_behaviours=10_000,
    cross_categories=32, user_features=1, hidden=(128, 64),
)  # fmt: skip
_ENGAGED: Final = 0.1  #: share of behaviours in the first group
_BEST: Final = 500
_SHORTEST_S: Final = 0.02  #: a repetition runs its step again until so much time has passed


@dataclass(frozen=True)
class _Case:
    """A model, a user of it, and candidates' records."""

    sizes: Dimensions
    head: Head
    folded: Folded
    rows: npt.NDArray[np.uint8]


def measure_kernels(
    candidates: Sequence[int], behaviours: Sequence[int], repetitions: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Microseconds of CPU time, medians of `repetitions`.

    `us`: kernel -> "candidates x behaviours" -> prepare (once a user), score, rank (the best 500). `parts_us`: kernel
    -> what score takes of the first pair without tiers, without attention, and without both; `layers_gmac_per_s`: the
    multiply-adds of that last one by its time. `blas_gmac_per_s`: what numpy reaches on matrices that fit in L2.
    """
    surroundings = machine(Cores.available())
    whole: dict[str, dict[str, dict[str, float]]] = {}
    parts: dict[str, dict[str, float]] = {}
    rates: dict[str, float] = {}
    for kernel in available():
        progress(kernel.name)
        whole[kernel.name] = {
            f"{count}x{length}": _steps(kernel, made_up(DEFAULT, count, length), repetitions)
            for count in candidates
            for length in behaviours
        }
        count, length = candidates[0], behaviours[0]
        bare = replace(DEFAULT, tiers=0, attention=False)
        models = {
            "all": DEFAULT, "without tiers": replace(DEFAULT, tiers=0),
            "without attention": replace(DEFAULT, attention=False), "without both": bare,
        }  # fmt: skip
        parts[kernel.name] = {
            name: _score_us(kernel, made_up(sizes, count, length), repetitions) for name, sizes in models.items()
        }
        h1, h2 = bare.hidden
        width = bare.vector_dim + bare.bridges + bare.signature_bits
        macs = count * (width * h1 + h1 * h2 + h2)
        rates[kernel.name] = round(macs / parts[kernel.name]["without both"] / 1000, 1)
    return {
        "us": whole, "parts_us": parts, "layers_gmac_per_s": rates, "blas_gmac_per_s": _blas(repetitions),
        "repetitions": repetitions, "machine": surroundings, "commit": commit(),
    }  # fmt: skip


def made_up(sizes: Dimensions, candidates: int, behaviours: int) -> _Case:
    """Random weights, a user of so many behaviours, and candidates that all have a signature."""
    rng, (h1, _), width = np.random.default_rng(0), sizes.hidden, sizes.signature_bits // 8

    def weights(*shape: int) -> npt.NDArray[np.float32]:
        return np.asarray(rng.normal(0, 0.1, shape), dtype=np.float32)

    def signatures(count: int) -> npt.NDArray[np.uint8]:
        return rng.integers(0, 256, (count, width), dtype=np.uint8)

    arrays = {name: weights(*shape) for name, shape in sizes.head_shapes.items()}
    arrays["attention_table"] = np.exp(np.arange(sizes.signature_bits + 1, dtype=np.float32) / 8)
    engaged = int(behaviours * _ENGAGED)
    attended = min(sizes.attended, behaviours)
    folded = Folded(
        weights(h1), weights(sizes.bridges, h1), weights(sizes.signature_bits, h1), weights(sizes.attended, h1),
        weights(sizes.cross_categories, h1), (signatures(engaged), signatures(behaviours - engaged)),
        signatures(sizes.attended), np.arange(sizes.attended) < attended, np.arange(1, 1 + sizes.cross_categories), 1,
    )  # fmt: skip
    shares = np.asarray(rng.dirichlet(np.ones(sizes.bridges), candidates), dtype=np.float32)
    records = sizes.layout.empty(candidates)
    sizes.layout.set_vectors(records, weights(candidates, sizes.vector_dim), shares)
    records["signature"] = signatures(candidates)
    records["flags"] = Flag.HAS_SIGNATURE | Flag.HAS_CATEGORY
    records["category_id"] = rng.integers(0, 1000, candidates)
    rows = records.view(np.uint8).reshape(candidates, sizes.layout.stride)
    return _Case(sizes, Head.of(arrays, sizes, 1), folded, rows)


def _steps(kernel: Kernel, case: _Case, repetitions: int) -> dict[str, float]:
    prepared = kernel.prepare(case.head, case.sizes, case.folded)
    scores = prepared.score(case.rows)
    ids, servable = np.arange(len(scores)), np.ones(len(scores), dtype=np.bool_)
    return {
        "prepare": _median_us(lambda: kernel.prepare(case.head, case.sizes, case.folded), repetitions),
        "score": _median_us(lambda: prepared.score(case.rows), repetitions),
        "rank": _median_us(lambda: rank(scores, ids, servable, _BEST), repetitions),
    }


def _score_us(kernel: Kernel, case: _Case, repetitions: int) -> float:
    prepared = kernel.prepare(case.head, case.sizes, case.folded)
    return _median_us(lambda: prepared.score(case.rows), repetitions)


def _blas(repetitions: int) -> float:
    left, right = np.ones((256, 192), dtype=np.float32), np.ones((192, 128), dtype=np.float32)
    return round(left.size * 128 / _median_us(lambda: left @ right, repetitions) / 1000, 1)


def _median_us(step: Callable[[], object], repetitions: int) -> float:
    step()
    start = time.thread_time()
    step()
    runs = max(1, int(_SHORTEST_S / max(time.thread_time() - start, 1e-9)))
    found = []
    for _ in range(repetitions):
        start = time.thread_time()
        for _ in range(runs):
            step()
        found.append((time.thread_time() - start) / runs)
    return round(float(np.median(found)) * 1e6, 1)
