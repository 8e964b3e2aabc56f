"""Rows of table items by the column: what the item tower and N2O records read of many items at once.

A rebuild reads every item of a partition, so rows are decoded here straight from their Avro bytes into arrays, without
a dictionary for each (item_column_kernel.py): a twentieth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.errors import BadInput
from schemas.ids import hashed_id
from schemas.records import ItemRow, ItemUpdate

__all__ = ["NAMED_COLUMNS", "CatalogueColumns", "ItemColumns", "RowFormat", "named_features", "packed_column"]

#: Further features (the `numeric` map of an item) share this many columns, by hash of their name: any log's names work.
NAMED_COLUMNS: Final = 4

_CATALOGUE: Final = itemgetter("embedding", "category_id", "price", "numeric")
_ROW: Final = itemgetter(
    "item_id", "event_time_ms", "source_topic_id", "source_offset", "deleted", "signature", "signature_version"
)


class RowFormat(NamedTuple):
    """What decides how long an item's vectors are, and which signatures are of use."""

    embedding_dim: int
    signature_bits: int
    signature_version: str


@dataclass(frozen=True)
class CatalogueColumns:
    """What the item tower reads of n items, before anything is scaled."""

    embedding: npt.NDArray[np.uint8]  #: [n, 4 * embedding_dim] little-endian float32, zeros where absent
    has_embedding: npt.NDArray[np.bool_]  #: [n]
    category: npt.NDArray[np.int64]  #: [n], 0 where absent
    has_category: npt.NDArray[np.bool_]  #: [n]
    price: npt.NDArray[np.float64]  #: [n], NaN where absent
    named: npt.NDArray[np.float32]  #: [n, NAMED_COLUMNS], signed log1p

    @classmethod
    def of(cls, rows: Sequence[ItemRow] | Sequence[ItemUpdate], embedding_dim: int) -> CatalogueColumns:
        """Those of decoded rows. Raises BadInput where an embedding has another length."""
        embeddings, categories, prices, named = zip(*map(_CATALOGUE, rows), strict=True) if rows else ((), (), (), ())
        embedding, has_embedding = packed_column(embeddings, 4 * embedding_dim, "embedding")
        features = [(place, name, value) for place, values in enumerate(named) for name, value in values.items()]
        places, names, values = zip(*features, strict=True) if features else ((), (), ())
        return cls(
            embedding,
            has_embedding,
            np.array([category or 0 for category in categories], dtype=np.int64),
            np.array([category is not None for category in categories], dtype=bool),
            np.array(prices, dtype=np.float64),
            named_features(np.array(places, dtype=np.int64), names, np.array(values, dtype=np.float64), len(rows)),
        )


@dataclass(frozen=True)
class ItemColumns:
    """n rows of table items."""

    item_id: npt.NDArray[np.int64]  #: [n], as the next three
    event_time_ms: npt.NDArray[np.int64]
    source_topic_id: npt.NDArray[np.int64]
    source_offset: npt.NDArray[np.int64]
    deleted: npt.NDArray[np.bool_]  #: [n]
    signature: npt.NDArray[np.uint8]  #: [n, signature_bits / 8], zeros where absent or of other hyperplanes
    has_signature: npt.NDArray[np.bool_]  #: [n]
    catalogue: CatalogueColumns

    def __len__(self) -> int:
        return len(self.item_id)

    @classmethod
    def of(cls, rows: Sequence[ItemRow], row_format: RowFormat) -> ItemColumns:
        """Those of decoded rows. Raises BadInput where an embedding or a usable signature has another length."""
        ids, times, topics, offsets, deleted, packed, versions = (
            zip(*map(_ROW, rows), strict=True) if rows else ((), (), (), (), (), (), ())
        )
        usable = [
            value if made_by == row_format.signature_version else None
            for value, made_by in zip(packed, versions, strict=True)
        ]
        signature, has_signature = packed_column(usable, row_format.signature_bits // 8, "signature")
        return cls(
            np.array(ids, dtype=np.int64),
            np.array(times, dtype=np.int64),
            np.array(topics, dtype=np.int64),
            np.array(offsets, dtype=np.int64),
            np.array(deleted, dtype=bool),
            signature,
            has_signature,
            CatalogueColumns.of(rows, row_format.embedding_dim),
        )

    def take(self, chosen: npt.NDArray[Any]) -> ItemColumns:
        """Some of them, by place ([k] int64)."""
        columns = self.catalogue
        return ItemColumns(
            self.item_id[chosen],
            self.event_time_ms[chosen],
            self.source_topic_id[chosen],
            self.source_offset[chosen],
            self.deleted[chosen],
            self.signature[chosen],
            self.has_signature[chosen],
            CatalogueColumns(
                columns.embedding[chosen],
                columns.has_embedding[chosen],
                columns.category[chosen],
                columns.has_category[chosen],
                columns.price[chosen],
                columns.named[chosen],
            ),
        )


def named_features(
    places: npt.NDArray[np.int64], names: Sequence[str], values: npt.NDArray[np.float64], rows: int
) -> npt.NDArray[np.float32]:
    """The columns of named features ([rows, NAMED_COLUMNS]) from the row, name and value of each ([k] each).

    Of several of one name in a row the last counts, as in a map. What is not finite is 0.
    """
    named = np.zeros((rows, NAMED_COLUMNS), dtype=np.float32)
    if not len(places):
        return named
    distinct = sorted(set(names))
    rank = {name: number for number, name in enumerate(distinct)}
    keys = places * len(distinct) + np.array([rank[name] for name in names], dtype=np.int64)
    # In order of row and name: a map has no order, and the sum of floats has one.
    keys, last = np.unique(keys[::-1], return_index=True)
    values = values[::-1][last]
    finite = np.isfinite(values)
    keys, values = keys[finite], values[finite]
    columns = np.array([hashed_id(name) % NAMED_COLUMNS for name in distinct], dtype=np.int64)
    added = np.copysign(np.log1p(np.abs(values)), values).astype(np.float32)
    np.add.at(named, (keys // len(distinct), columns[keys % len(distinct)]), added)
    return named


def packed_column(
    values: Sequence[bytes | None], width: int, what: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Fixed-size bytes of many rows ([n, width] uint8, zeros where None) and where they were present ([n] bool).

    Raises BadInput naming `what` where a value has another length.
    """
    blank = bytes(width)
    filled = [blank if value is None else value for value in values]
    if set(map(len, filled)) - {width}:
        raise wrong_length(what, next(len(value) for value in filled if len(value) != width), width)
    present = np.array([value is not None for value in values], dtype=bool)
    return np.frombuffer(b"".join(filled), dtype=np.uint8).reshape(len(filled), width), present


def wrong_length(what: str, found: int, width: int) -> BadInput:
    """The error of a vector that has another length than the model's."""
    return BadInput(f"{what} has {found} bytes, the model expects {width}: check AIF_EMBEDDING_DIM and the artifact")
