"""How sure a measured difference is: a bootstrap over users and seeds at once, the same draws for every model.

Two models are compared on the same users with the same seeds. A draw takes seeds with replacement, users with
replacement, and averages over both; every model's average of a draw uses the same seeds and users, so that what makes
a user or a seed easy cancels in differences. Intervals are the 2.5 and 97.5 percentiles of 2,000 draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "Paired", "gap_recovered"]

_Float = npt.NDArray[np.float64]
_DRAWS: Final = 2000
_SEED: Final = 20251112
#: z(97.5 %) + z(80 %): a true difference of this many standard errors is found in four tests of five.
_DETECTABLE: Final = 1.959964 + 0.841621


@dataclass(frozen=True)
class Estimate:
    """A measured number, with its value in every draw."""

    value: float
    draws: _Float  #: [draws]

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.draws - other.draws)

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return float(np.nanpercentile(self.draws, 2.5))

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return float(np.nanpercentile(self.draws, 97.5))

    @property
    def smallest_detectable(self) -> float:
        """The difference that a two-sided test at 5 % finds with a chance of 80 %, by the draws' deviation."""
        return float(_DETECTABLE * np.nanstd(self.draws))


class Paired:
    """Draws of seeds and units (users or queries) that all models share."""

    def __init__(self, seeds: int, unit_weights: _Float, draws: int = _DRAWS) -> None:
        """`unit_weights` [units] is what each unit counts in an average."""
        random = np.random.default_rng(_SEED)
        units = len(unit_weights)
        self._weights = unit_weights
        self._seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds  # [draws, seeds]
        chosen = random.multinomial(units, np.full(units, 1 / units), size=draws) if units else np.zeros((draws, 0))
        self._units = chosen * unit_weights  # [draws, units]

    def estimate(self, values: _Float) -> Estimate:
        """The weighted mean over units, averaged over seeds, of values [seeds, units] that are all finite."""
        if not self._weights.sum():
            return Estimate(float("nan"), np.full(len(self._units), np.nan))
        by_seed = (self._units @ values.T) / self._units.sum(1, keepdims=True)  # [draws, seeds]
        value = float(np.average(values.mean(0), weights=self._weights))
        return Estimate(value, (by_seed * self._seeds).sum(1))


def gap_recovered(model: Estimate, floor: Estimate, ceiling: Estimate) -> Estimate:
    """(model - floor) / (ceiling - floor): 0 is as good as the floor, 1 as good as the ceiling.

    nan where floor and ceiling are equal; where they lie closer than they can be told apart the interval is wide, and
    says so.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (model.draws - floor.draws) / (ceiling.draws - floor.draws)
        value = np.float64(model.value - floor.value) / np.float64(ceiling.value - floor.value)
    return Estimate(float(value) if np.isfinite(value) else float("nan"), np.where(np.isfinite(draws), draws, np.nan))
