"""What the item tower reads of an item, as arrays: the one place where catalogue and activity become model inputs.

Workers, rebuilds and training call `item_inputs` on the same rows and get the same bytes, one row or many. A value
that is absent, or not finite, is 0 together with its `has_…` column being 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.activity_row import ACTIVITY_FEATURES, Snapshots
from domain.artifact import Dimensions
from domain.item_columns import NAMED_COLUMNS, CatalogueColumns
from schemas.records import ItemRow, ItemUpdate

__all__ = ["ITEM_NUMERIC", "ItemInputs", "category_buckets", "inputs_of", "item_inputs"]

_PRICE, _HAS_PRICE, _HAS_EMBEDDING, _HAS_CATEGORY, _NAMED = range(5)
_ACTIVITY: Final = _NAMED + NAMED_COLUMNS
#: Columns of `ItemInputs.numeric`: log1p price, has price, has embedding, has category, the named features, and the
#: snapshot of the item's activity.
ITEM_NUMERIC: Final = _ACTIVITY + ACTIVITY_FEATURES


@dataclass(frozen=True)
class ItemInputs:
    """Inputs of the item tower for n items."""

    embedding: npt.NDArray[np.float32]  #: [n, embedding_dim], scaled to a root mean square of 1; zeros where absent
    category: npt.NDArray[np.int64]  #: [n] bucket; 0 is none
    numeric: npt.NDArray[np.float32]  #: [n, ITEM_NUMERIC]
    identity: npt.NDArray[np.int64]  #: [n] bucket of the item's id; 0 for all where the model knows none

    def __len__(self) -> int:
        return len(self.category)

    def take(self, rows: npt.NDArray[np.int64]) -> ItemInputs:
        """The inputs of some rows ([k] int64)."""
        return ItemInputs(self.embedding[rows], self.category[rows], self.numeric[rows], self.identity[rows])

    def with_activity(self, features: npt.NDArray[np.float32]) -> ItemInputs:
        """The same with other activity ([n, ACTIVITY_FEATURES] float32)."""
        return replace(self, numeric=np.concatenate((self.numeric[:, :_ACTIVITY], features), axis=1))

    def columns(self, dims: Dimensions) -> tuple[npt.NDArray[Any], ...]:
        """The item tower's arguments, in their order: a model without ids has no argument for them."""
        read = (self.embedding, self.category, self.numeric)
        return (*read, self.identity) if dims.id_buckets else read


def item_inputs(
    rows: Sequence[ItemRow] | Sequence[ItemUpdate], dims: Dimensions, activity: Snapshots | None = None
) -> ItemInputs:
    """Tower inputs of catalogue rows and of their items' activity, without which its columns are 0.

    Raises BadInput where an embedding has another length than `dims` says.
    """
    item_id = np.array([row["item_id"] for row in rows], dtype=np.int64)
    return inputs_of(item_id, CatalogueColumns.of(rows, dims.embedding_dim), dims, activity)


def inputs_of(
    item_id: npt.NDArray[np.int64], columns: CatalogueColumns, dims: Dimensions, activity: Snapshots | None = None
) -> ItemInputs:
    """Tower inputs of rows by the column ([n] ids)."""
    embedding, usable = _unit_scale(columns.embedding.view("<f4").astype(np.float32, copy=False))
    has_price = np.isfinite(columns.price)
    numeric = np.zeros((len(columns.price), ITEM_NUMERIC), dtype=np.float32)
    numeric[:, _PRICE] = _signed_log1p(np.where(has_price, columns.price, 0.0))
    numeric[:, _HAS_PRICE] = has_price
    numeric[:, _HAS_EMBEDDING] = columns.has_embedding & usable
    numeric[:, _HAS_CATEGORY] = columns.has_category
    numeric[:, _NAMED:_ACTIVITY] = columns.named
    if activity is not None:
        numeric[:, _ACTIVITY:] = activity.features
    return ItemInputs(
        embedding, category_buckets(columns.category, columns.has_category, dims.category_buckets), numeric,
        _hashed(item_id, dims.id_buckets) if dims.id_buckets else np.zeros(len(item_id), dtype=np.int64),
    )  # fmt: skip


def category_buckets(
    categories: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], buckets: int
) -> npt.NDArray[np.int64]:
    """Categories hashed into 1..buckets-1, 0 where absent ([n] int64, [n] bool -> [n] int64)."""
    return np.where(present, _hashed(categories, buckets), 0)


def _hashed(numbers: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.int64]:
    """[n] int64 -> [n] int64 in 1..buckets-1."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)  # the product's upper bits are the well mixed ones
    return 1 + (mixed % np.uint64(buckets - 1)).astype(np.int64)


def _unit_scale(embedding: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Rows scaled to a root mean square of 1, and which rows are usable (finite and not all zero)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # Summed in float64 row by row: neither the batch nor the scale of a producer's vectors changes a row.
        power = np.square(embedding, dtype=np.float64).mean(axis=1)
        usable = np.isfinite(power) & (power > 0)
        scaled = embedding / np.sqrt(power)[:, None]
    return np.where(usable[:, None], scaled, 0).astype(np.float32), usable


def _signed_log1p(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.copysign(np.log1p(np.abs(values)), values), dtype=np.float64)
