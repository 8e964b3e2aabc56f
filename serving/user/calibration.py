"""How fast this machine is with a model: the costs that quality is chosen by (domain/quality.py).

Measured once a version, beside the requests, on made-up inputs of the model's sizes: some 50 ms at the defaults. The
best of several runs is taken, because what disturbs a measurement only ever adds to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from domain.n2o import Flag
from domain.quality import Costs
from domain.user_features import UserInputs
from serving.joining import ItemRows
from serving.kernels import PreparedUser, prepare, score_rows
from serving.rollout.versions import Version

__all__ = ["Speeds", "measured_costs"]

_RUNS: Final = 7
_MOST_VERSIONS: Final = 3
_FEW, _MANY = 64, 2048  #: candidates


class Speeds:
    """Measured costs by version. One thread measures, any number read."""

    def __init__(self) -> None:
        self._costs: dict[int, Costs] = {}

    def of(self, version: Version) -> Costs | None:
        """What was measured with a version; None before that."""
        return self._costs.get(version.tag)

    def measure(self, version: Version) -> None:
        """Measure with a version, where that was not done yet."""
        if version.tag not in self._costs:
            self._costs = {
                **dict(list(self._costs.items())[1 - _MOST_VERSIONS :]),
                version.tag: measured_costs(version),
            }


def measured_costs(version: Version, clock_s: Callable[[], float] = time.perf_counter) -> Costs:
    """Costs of a version's user phase and of scoring with it, rows out of memory included."""
    sizes = version.sizes
    fewest, most = sizes.behaviours, max(sizes.long_behaviours, sizes.behaviours + 1)
    ids = np.arange(_MANY, dtype=np.int64)
    raw = np.empty((_MANY, sizes.layout.stride), dtype=np.uint8)

    def phase(length: int) -> PreparedUser:
        return prepare(version.head, sizes, version.phase.run(*_somebody(version, length))[0])

    def best_ms(run: Callable[[], object]) -> float:
        times = []
        for _ in range(_RUNS):
            start = clock_s()
            run()
            times.append(clock_s() - start)
        return min(times) * 1000

    def scoring_ms(length: int, count: int) -> float:
        prepared = phase(length)

        def run() -> None:
            score_rows(prepared, version.slab.rows(ids[:count], raw[:count]))

        return best_ms(run)

    short_ms, long_ms = (best_ms(lambda length=length: phase(length)) for length in (fewest, most))  # type: ignore[misc]
    few_ms, many_ms = scoring_ms(fewest, _FEW), scoring_ms(fewest, _MANY)
    candidate_ms = max(0.0, many_ms - few_ms) / (_MANY - _FEW)
    longer_ms = max(0.0, scoring_ms(most, _MANY) - many_ms)
    return Costs(
        user_phase_ms=short_ms,
        behaviour_ms=max(0.0, long_ms - short_ms) / (most - fewest),
        scoring_ms=max(0.0, few_ms - candidate_ms * _FEW),
        candidate_ms=candidate_ms,
        pair_ms=longer_ms / _MANY / (most - fewest),
        fewest=fewest,
    )


def _somebody(version: Version, length: int) -> tuple[UserInputs, ItemRows]:
    """A user with as many behaviours, all with rows."""
    sizes, rng = version.sizes, np.random.default_rng(0)
    records = sizes.layout.empty(length)
    records["version"] = version.tag
    records["flags"] = Flag.HAS_SIGNATURE | Flag.HAS_CATEGORY
    records["signature"] = rng.integers(0, 256, (length, sizes.signature_bits // 8))
    records["category_id"] = rng.integers(0, 64, length)
    inputs = UserInputs(
        windows=np.zeros((1, sizes.user_features), dtype=np.float32),
        item_ids=np.zeros((1, length), dtype=np.int64),
        actions=np.zeros((1, length), dtype=np.int64),
        ages=np.ones((1, length), dtype=np.float32),
        present=np.ones((1, length), dtype=np.bool_),
    )
    return inputs, ItemRows.checked(version.tag, records)
