"""Values of declared features, read from user rows at any time: the same code for serving, export and command line.

A time before a row's newest event sees only what the row still keeps: its tiles up to then, and of what is not kept
by tile (last times, decayed counts, rankings) the state as of the newest event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domain.feature_plan import PLAN, REGISTERS, Amount, Plan, Ranking, Scalar, Sketch, actions_mask
from domain.features import Feature, level_of
from domain.user_row import RANKED_DTYPE, REGISTER_DTYPE, VALUE_DTYPE, check_rows, tiles_of
from domain.windows import SLOT_BITS, SLOTS, WINDOWS, split_cells, tile_starts
from schemas.records import UserHead

__all__ = ["Column", "distinct_estimate", "feature_values"]

_Int = npt.NDArray[np.int64]
#: HyperLogLog's constant for its number of registers.
_ALPHA: Final = 0.7213 / (1 + 1.079 / REGISTERS)


class Column(NamedTuple):
    """A feature of n users: values ([n]; of rankings a list of dictionaries each) and where there is one."""

    values: Any
    present: npt.NDArray[np.bool_]

    def items(self) -> list[Any]:
        """Values as Python objects, None where there is none."""
        values = self.values if isinstance(self.values, list) else self.values.tolist()
        return [value if there else None for value, there in zip(values, self.present.tolist(), strict=True)]


def feature_values(heads: Sequence[UserHead | None], at_ms: _Int, plan: Plan = PLAN) -> dict[str, Column]:
    """Every declared feature of each user at its own time ([n] int64 ms), by name.

    A user without a row has no value of anything. Raises Corrupt where a row is laid out or declared otherwise.
    """
    check_rows(heads, plan)
    rows = _Rows(heads, at_ms, plan)
    return {feature.name: rows.column(feature) for feature in plan.features}


class _Rows:
    """Packed rows side by side: each entry with its owner."""

    def __init__(self, heads: Sequence[UserHead | None], at_ms: _Int, plan: Plan) -> None:
        self.heads, self.at_ms, self.plan = heads, at_ms, plan
        self.known = np.array([head is not None for head in heads], dtype=np.bool_)
        self.tiles, self.tile_owner, self.newest = tiles_of(heads)
        self.values, self.value_owner = _joined([head["values"] if head else b"" for head in heads], VALUE_DTYPE)
        registers = [head["registers"] if head else b"" for head in heads]
        self.registers, self.register_owner = _joined(registers, REGISTER_DTYPE)
        self.ranked, self.ranked_owner = _joined([head["ranked"] if head else b"" for head in heads], RANKED_DTYPE)
        self.tile_level, self.tile_slot, self.tile_action = split_cells(self.tiles["cell"])
        self.value_cell = self.values["cell"].astype(np.int64)
        self.register_cell = self.registers.astype(np.int64) >> 16

    def column(self, feature: Feature) -> Column:
        mask, kind = actions_mask(feature.actions), feature.aggregation
        if kind == "count":
            return Column(self.counts(feature, mask).astype(np.int64), self.known)
        if kind == "rate":
            below = self.counts(feature, actions_mask(feature.over))
            return _divided(self.counts(feature, mask), below, below > 0)
        if kind in ("sum", "mean", "min", "max"):
            return self.amount(feature, mask)
        if kind == "distinct":
            return self.distinct(feature, mask)
        if kind == "top_categories":
            return self.top(feature, mask)
        return self.scalar(feature, mask)

    def live(self, slot: _Int, owner: _Int, level: int, window_ms: int) -> npt.NDArray[np.bool_]:
        """Which tiles of a level lie in the window at their owner's time."""
        at, tile_ms = self.at_ms[owner], WINDOWS[level].tile_ms
        start = tile_starts(level, slot, self.newest[owner])
        return np.asarray((start >= (at - window_ms) // tile_ms * tile_ms) & (start <= at))

    def counts(self, feature: Feature, mask: int) -> npt.NDArray[np.float64]:
        assert feature.window_ms is not None
        level = level_of(feature.window_ms)
        live = self.live(self.tile_slot, self.tile_owner, level, feature.window_ms)
        live &= (self.tile_level == level) & (mask >> self.tile_action & 1 == 1)
        return self.summed(self.tile_owner[live], self.tiles["count"][live])

    def summed(self, owner: _Int, weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        # Without a single entry bincount would count in integers.
        return np.bincount(owner, weights=weights, minlength=len(self.heads)).astype(np.float64)

    def amount(self, feature: Feature, mask: int) -> Column:
        if feature.aggregation == "mean":
            count, _ = self.amounts(feature, "n", mask)
            total, present = self.amounts(feature, "sum", mask)
            return _divided(total, count, present)
        return Column(*self.amounts(feature, feature.aggregation, mask))

    def amounts(self, feature: Feature, kind: str, mask: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        assert feature.window_ms is not None
        level = level_of(feature.window_ms)
        live = self.live(self.value_cell % SLOTS, self.value_owner, level, feature.window_ms)
        live &= self.value_cell >> SLOT_BITS == self.plan.amounts.index(Amount(level, kind, mask))
        owner, values = self.value_owner[live], self.values["value"][live]
        present = np.bincount(owner, minlength=len(self.heads)) > 0
        if kind in ("n", "sum"):
            return self.summed(owner, values), present
        found = np.full(len(self.heads), np.inf if kind == "min" else -np.inf)
        (np.minimum if kind == "min" else np.maximum).at(found, owner, values)
        return np.where(present, found, 0.0), present

    def distinct(self, feature: Feature, mask: int) -> Column:
        assert feature.window_ms is not None
        level = level_of(feature.window_ms)
        live = self.live(self.register_cell % SLOTS, self.register_owner, level, feature.window_ms)
        live &= self.register_cell >> SLOT_BITS == self.plan.sketches.index(Sketch(level, feature.of or "item", mask))
        registers = np.zeros((len(self.heads), REGISTERS), dtype=np.uint8)
        entry = self.registers[live]
        np.maximum.at(registers, (self.register_owner[live], entry >> 8 & 255), (entry & 255).astype(np.uint8))
        return Column(distinct_estimate(registers), self.known)

    def scalar(self, feature: Feature, mask: int) -> Column:
        number = self.plan.scalars.index(Scalar(feature.half_life_ms or 0, mask))
        at = self.value_cell >> SLOT_BITS == len(self.plan.amounts) + number
        owner, values = self.value_owner[at], self.values["value"][at]
        present = np.zeros(len(self.heads), dtype=np.bool_)
        present[owner] = True
        if feature.half_life_ms is not None:
            weights = np.zeros(len(self.heads))
            weights[owner] = np.exp2(values - self.read_ms(owner) / feature.half_life_ms)
            return Column(weights, self.known)
        last = np.zeros(len(self.heads), dtype=np.int64)
        last[owner] = values
        if feature.aggregation == "last_time":
            return Column(last, present)
        return Column(np.where(present, np.maximum(self.at_ms - last, 0), 0), present)

    def top(self, feature: Feature, mask: int) -> Column:
        assert feature.half_life_ms is not None
        number = self.plan.rankings.index(Ranking(feature.half_life_ms, mask))
        at = self.ranked["ranking"] == number
        owner, categories = self.ranked_owner[at], self.ranked["category_id"][at].tolist()
        weights = np.exp2(self.ranked["weight"][at] - self.read_ms(owner) / feature.half_life_ms).tolist()
        found: list[list[dict[str, Any]]] = [[] for _ in self.heads]
        for user, category, weight in zip(owner.tolist(), categories, weights, strict=True):
            found[user].append({"category_id": category, "weight": weight})
        return Column([sorted(each, key=lambda entry: -entry["weight"])[: feature.k] for each in found], self.known)

    def read_ms(self, owner: _Int) -> _Int:
        """The times at which decayed state is read."""
        return np.maximum(self.at_ms[owner], self.newest[owner])


def distinct_estimate(registers: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """How many different ids made the registers ([n, 256] uint8 -> [n] float64); 0 where they are empty."""
    raw = _ALPHA * REGISTERS**2 / np.exp2(-registers.astype(np.float64)).sum(axis=1)
    empty = (registers == 0).sum(axis=1)
    linear = REGISTERS * np.log(REGISTERS / np.maximum(empty, 1))
    return np.asarray(np.where((raw <= 2.5 * REGISTERS) & (empty > 0), linear, raw), dtype=np.float64)


def _joined(parts: list[bytes], dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], _Int]:
    counts = np.array([len(part) for part in parts], dtype=np.int64) // dtype.itemsize
    return np.frombuffer(b"".join(parts), dtype=dtype), np.repeat(np.arange(len(parts)), counts)


def _divided(above: npt.NDArray[np.float64], below: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> Column:
    return Column(np.divide(above, below, out=np.zeros_like(above), where=present), present)
