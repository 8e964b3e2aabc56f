"""A whole log as arrays: what training reads, made from the same records that the topics carry.

Times must ascend from event to event, so that "before this event" means the same by log position and by time. Repeated
event ids are left out by the rule of domain/duplicates.py. Catalogue rows are kept with their history: `rows_at` finds
what the N2O index would have held at a time, so that no example sees a price or a title of its future.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.duplicates import find_duplicates
from domain.item_columns import packed_column
from domain.item_features import ItemInputs, item_inputs
from domain.lsh import hyperplanes, signatures
from models.config import ModelConfig
from schemas.errors import BadInput
from schemas.records import ACTION_CODES, ItemUpdate

__all__ = ["Catalogue", "Events", "Log", "time_keys"]

_Int = npt.NDArray[np.int64]
_CHUNK = 8192  # catalogue rows turned into arrays at a time


@dataclass(frozen=True)
class Events:
    """User events in time order, each [N]."""

    user_id: _Int
    item_id: _Int
    time_ms: _Int
    action: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.time_ms)


@dataclass(frozen=True)
class Catalogue:
    """Every state that an item ever had, each [R], sorted by (item, time)."""

    item_id: _Int
    time_ms: _Int
    deleted: npt.NDArray[np.bool_]
    inputs: ItemInputs
    signatures: npt.NDArray[np.uint8]  #: [R, m / 8]
    has_signature: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.item_id)

    @cached_property
    def _items(self) -> _Int:
        return np.unique(self.item_id)

    @cached_property
    def _keys(self) -> _Int:
        return time_keys(np.searchsorted(self._items, self.item_id), self.time_ms, self.time_ms)

    def rows_at(self, item_id: _Int, at_ms: _Int) -> _Int:
        """Row of each item as of each time ([...] int64, [...] int64 -> [...] int64); -1 where it had none yet."""
        if not len(self):
            return np.full(np.broadcast_shapes(item_id.shape, at_ms.shape), -1, dtype=np.int64)
        item = np.searchsorted(self._items, item_id)
        wanted = time_keys(item, at_ms, self.time_ms)
        row = np.searchsorted(self._keys, wanted, side="right") - 1
        found = (row >= 0) & (self.item_id[row] == item_id)
        return np.where(found, row, -1)


@dataclass(frozen=True)
class Log:
    """User events and catalogue of one data set."""

    events: Events
    catalogue: Catalogue

    @classmethod
    def of(cls, entries: Iterable[tuple[str, Any]], config: ModelConfig) -> Log:
        """The log of ('item' | 'user', record) pairs in event-time order. Raises BadInput where times step back."""
        columns = {name: array("q") for name in ("event_id", "user_id", "item_id", "event_time_ms", "action")}
        updates: list[ItemUpdate] = []
        parts: list[Catalogue] = []
        for kind, record in entries:
            if kind == "user":
                for name, column in columns.items():
                    column.append(record[name] if name != "action" else ACTION_CODES[record[name]])
            else:
                updates.append(record)
                if len(updates) == _CHUNK:
                    parts.append(_states(updates, config))
                    updates = []
        parts.append(_states(updates, config))
        return cls(
            _events({name: np.array(column, dtype=np.int64) for name, column in columns.items()}), _joined(parts)
        )


def time_keys(group: _Int, time_ms: _Int, times_ms: _Int) -> _Int:
    """One sortable number for (group, time) pairs, with times clipped to just outside the range of `times_ms`."""
    first, last = int(times_ms.min()), int(times_ms.max())
    span = last - first + 3
    if (int(group.max(initial=0)) + 1) * span >= 2**63:
        raise BadInput(f"{int(group.max()) + 1} users or items over {span} ms are too many: train on a shorter log")
    return np.asarray(group * span + np.clip(time_ms - first + 1, 0, span - 1), dtype=np.int64)


def _events(columns: dict[str, _Int]) -> Events:
    time = columns["event_time_ms"]
    if (back := np.flatnonzero(time[1:] < time[:-1])).size:
        raise BadInput(f"user event {int(back[0]) + 1} is older than the one before it: sort the log by event time")
    users, owner = np.unique(columns["user_id"], return_inverse=True)
    order = np.argsort(owner, kind="stable")
    repeated = np.zeros(len(time), dtype=np.bool_)
    repeated[order] = find_duplicates([b""] * len(users), columns["event_id"][order], owner[order])
    kept = ~repeated
    return Events(
        user_id=columns["user_id"][kept],
        item_id=columns["item_id"][kept],
        time_ms=time[kept],
        action=columns["action"][kept].astype(np.uint8),
    )


def _states(updates: list[ItemUpdate], config: ModelConfig) -> Catalogue:
    raw, has_signature = packed_column(
        [update["embedding"] for update in updates], 4 * config.embedding_dim, "embedding"
    )
    planes = hyperplanes(config.signature_seed, config.signature_bits, config.embedding_dim)
    return Catalogue(
        item_id=np.array([update["item_id"] for update in updates], dtype=np.int64),
        time_ms=np.array([update["event_time_ms"] for update in updates], dtype=np.int64),
        deleted=np.array([update["op"] == "delete" for update in updates], dtype=np.bool_),
        inputs=item_inputs(updates, config.dimensions),
        signatures=signatures(raw.view("<f4"), planes),
        has_signature=has_signature,
    )


def _joined(parts: list[Catalogue]) -> Catalogue:
    ids = np.concatenate([part.item_id for part in parts])
    times = np.concatenate([part.time_ms for part in parts])
    order = np.lexsort((times, ids))  # stable: of equal times the later in the log comes last, and wins
    return Catalogue(
        item_id=ids[order],
        time_ms=times[order],
        deleted=np.concatenate([part.deleted for part in parts])[order],
        inputs=ItemInputs(
            np.concatenate([part.inputs.embedding for part in parts])[order],
            np.concatenate([part.inputs.category for part in parts])[order],
            np.concatenate([part.inputs.numeric for part in parts])[order],
            np.concatenate([part.inputs.identity for part in parts])[order],
        ),
        signatures=np.concatenate([part.signatures for part in parts])[order],
        has_signature=np.concatenate([part.has_signature for part in parts])[order],
    )
