"""What the item tower reads of an item, as arrays: the one place where catalogue and activity become model inputs.

Workers, rebuilds and training call `item_inputs` on the same rows and get the same bytes, one row or many. A value
that is absent, or not finite, is 0 together with its `has_…` column being 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from domain.activity_row import ACTIVITY_FEATURES, Snapshots
from domain.artifact import Dimensions
from schemas.errors import BadInput
from schemas.ids import hashed_id
from schemas.records import ItemRow, ItemUpdate

__all__ = ["ITEM_NUMERIC", "ItemInputs", "category_buckets", "item_inputs", "packed_column"]

#: Further features (the `numeric` map of an item) share this many columns, by hash of their name: any log's names work.
_NAMED_COLUMNS: Final = 4
_PRICE, _HAS_PRICE, _HAS_EMBEDDING, _HAS_CATEGORY, _NAMED = range(5)
_ACTIVITY: Final = _NAMED + _NAMED_COLUMNS
#: Columns of `ItemInputs.numeric`: log1p price, has price, has embedding, has category, the named features, and the
#: snapshot of the item's activity.
ITEM_NUMERIC: Final = _ACTIVITY + ACTIVITY_FEATURES

_FIELDS: Final = itemgetter("embedding", "category_id", "price", "numeric")


@dataclass(frozen=True)
class ItemInputs:
    """Inputs of the item tower for n items."""

    embedding: npt.NDArray[np.float32]  #: [n, embedding_dim], scaled to a root mean square of 1; zeros where absent
    category: npt.NDArray[np.int64]  #: [n] bucket; 0 is none
    numeric: npt.NDArray[np.float32]  #: [n, ITEM_NUMERIC]

    def __len__(self) -> int:
        return len(self.category)

    def take(self, rows: npt.NDArray[np.int64]) -> ItemInputs:
        """The inputs of some rows ([k] int64)."""
        return ItemInputs(self.embedding[rows], self.category[rows], self.numeric[rows])

    def with_activity(self, features: npt.NDArray[np.float32]) -> ItemInputs:
        """The same with other activity ([n, ACTIVITY_FEATURES] float32)."""
        return ItemInputs(
            self.embedding, self.category, np.concatenate((self.numeric[:, :_ACTIVITY], features), axis=1)
        )


def item_inputs(
    rows: Sequence[ItemRow] | Sequence[ItemUpdate], dims: Dimensions, activity: Snapshots | None = None
) -> ItemInputs:
    """Tower inputs of catalogue rows and of their items' activity, without which its columns are 0.

    Raises BadInput where an embedding has another length than `dims` says.
    """
    embeddings, categories, prices, named = zip(*map(_FIELDS, rows), strict=True) if rows else ((), (), (), ())
    raw, has_embedding = packed_column(embeddings, 4 * dims.embedding_dim, "embedding")
    embedding, usable = _unit_scale(raw.view("<f4").astype(np.float32, copy=False))
    has_category = np.array([category is not None for category in categories], dtype=bool)
    category = np.array([category or 0 for category in categories], dtype=np.int64)
    price = np.array(prices, dtype=np.float64)
    has_price = np.isfinite(price)

    numeric = np.zeros((len(rows), ITEM_NUMERIC), dtype=np.float32)
    numeric[:, _PRICE] = _signed_log1p(np.where(has_price, price, 0.0))
    numeric[:, _HAS_PRICE] = has_price
    numeric[:, _HAS_EMBEDDING] = has_embedding & usable
    numeric[:, _HAS_CATEGORY] = has_category
    _add_named(numeric, named)
    if activity is not None:
        numeric[:, _ACTIVITY:] = activity.features
    return ItemInputs(embedding, category_buckets(category, has_category, dims.category_buckets), numeric)


def category_buckets(
    categories: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], buckets: int
) -> npt.NDArray[np.int64]:
    """Categories hashed into 1..buckets-1, 0 where absent ([n] int64, [n] bool -> [n] int64)."""
    with np.errstate(over="ignore"):
        mixed = categories.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)  # the product's upper bits are the well mixed ones
    return np.where(present, 1 + (mixed % np.uint64(buckets - 1)).astype(np.int64), 0)


def packed_column(
    values: Sequence[bytes | None], width: int, what: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Fixed-size bytes of many rows ([n, width] uint8, zeros where None) and where they were present ([n] bool).

    Raises BadInput naming `what` where a value has another length.
    """
    blank = bytes(width)
    filled = [blank if value is None else value for value in values]
    if set(map(len, filled)) - {width}:
        found = next(len(value) for value in filled if len(value) != width)
        raise BadInput(f"{what} has {found} bytes, the model expects {width}: check AIF_EMBEDDING_DIM and the artifact")
    present = np.array([value is not None for value in values], dtype=bool)
    return np.frombuffer(b"".join(filled), dtype=np.uint8).reshape(len(filled), width), present


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


def _add_named(numeric: npt.NDArray[np.float32], named: Sequence[dict[str, float]]) -> None:
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, features in enumerate(named):
        for name in sorted(features):  # a map has no order, and the sum of floats has one
            if math.isfinite(value := features[name]):
                rows.append(row)
                columns.append(_named_column(name))
                values.append(value)
    if rows:
        np.add.at(numeric, (rows, columns), _signed_log1p(np.array(values)).astype(np.float32))


@lru_cache(maxsize=4096)
def _named_column(name: str) -> int:
    return _NAMED + hashed_id(name) % _NAMED_COLUMNS
