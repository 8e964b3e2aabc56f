"""What state a set of declared features needs, and where it lies in a user's row.

Counts of every action are kept anyway (windows.py: the model reads them). Beyond those a plan has

* *amounts*: one float64 per tile of a level: n, sum, min or max of the values of some actions;
* *sketches*: HyperLogLog registers per tile of a level;
* *scalars*: one float64 a user, behind the amounts: last event time, or the logarithm of a decayed count;
* *rankings*: categories with the logarithms of their decayed counts.

A decayed count at t is sum(2 ** ((event time - t) / half life)). Kept is log2 of that sum at t = 0, which no passing of
time changes: any later time is one subtraction, late events need no special case, and an order of categories by it is
their order at any time. Its precision in float64 is 1e-11 at a half life of a day in this century.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domain.features import FEATURES, Feature, level_of
from schemas.ids import hashed_id
from schemas.records import ACTION_CODES, Action

__all__ = ["AMOUNT_KINDS", "PLAN", "REGISTERS", "Amount", "Plan", "Ranking", "Scalar", "Sketch", "actions_mask"]

#: Registers of a sketch.
REGISTERS: Final = 256
#: What an amount can be; the position is its code in the kernel.
AMOUNT_KINDS: Final = ("n", "sum", "min", "max")


class Amount(NamedTuple):
    """A number per tile of a level, of the values of the actions of a mask."""

    level: int
    kind: str
    mask: int


class Sketch(NamedTuple):
    """Registers per tile of a level."""

    level: int
    of: str
    mask: int


class Scalar(NamedTuple):
    """A number per user: the last event time where `half_life_ms` is 0, else log2 of the decayed count."""

    half_life_ms: int
    mask: int


class Ranking(NamedTuple):
    """Categories of a user by decayed count."""

    half_life_ms: int
    mask: int


def actions_mask(actions: Sequence[Action]) -> int:
    """Actions as a bit mask of their codes."""
    return sum({1 << ACTION_CODES[action] for action in actions})


@dataclass(frozen=True)
class Plan:
    """State of a set of features; sorted, so that the order of declarations does not matter."""

    features: tuple[Feature, ...]
    amounts: tuple[Amount, ...]
    sketches: tuple[Sketch, ...]
    scalars: tuple[Scalar, ...]
    rankings: tuple[Ranking, ...]

    @classmethod
    def of(cls, features: Sequence[Feature]) -> Plan:
        """The state that these features need, each piece once."""
        amounts: set[Amount] = set()
        sketches: set[Sketch] = set()
        scalars: set[Scalar] = set()
        rankings: set[Ranking] = set()
        for each in features:
            mask, level = actions_mask(each.actions), level_of(each.window_ms) if each.window_ms else 0
            if each.aggregation in ("sum", "mean", "min", "max"):
                kinds = ("n", "sum") if each.aggregation == "mean" else (each.aggregation,)
                amounts |= {Amount(level, kind, mask) for kind in kinds}
            elif each.aggregation == "distinct":
                sketches.add(Sketch(level, each.of or "item", mask))
            elif each.aggregation in ("last_time", "time_since", "decayed"):
                scalars.add(Scalar(each.half_life_ms or 0, mask))
            elif each.aggregation == "top_categories":
                rankings.add(Ranking(each.half_life_ms or 0, mask))
        return cls(
            tuple(features),
            *(tuple(sorted(kind)) for kind in (amounts, sketches, scalars, rankings)),  # type: ignore[arg-type]
        )

    @cached_property
    def fingerprint(self) -> int:
        """Names the state: rows of another fingerprint are migrated before a feature is read or folded."""
        state = [list(map(tuple, kind)) for kind in (self.amounts, self.sketches, self.scalars, self.rankings)]
        return hashed_id(repr([state, REGISTERS]))

    @cached_property
    def kernel(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The tables that the compiled fold reads: amounts, sketches, scalars, rankings.

        [n, 3] or [n, 2] int64: (level, kind or what, mask), (half life in ms, mask).
        """
        return (
            _table([(each.level, AMOUNT_KINDS.index(each.kind), each.mask) for each in self.amounts], 3),
            _table([(each.level, each.of == "category", each.mask) for each in self.sketches], 3),
            _table(self.scalars, 2),
            _table(self.rankings, 2),
        )


def _table(rows: Sequence[tuple[int, ...]], width: int) -> npt.NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(len(rows), width)


PLAN: Final = Plan.of(FEATURES)
