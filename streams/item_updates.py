"""The item lane: catalogue updates to rows of `items` and, through the model's item tower, of the N2O slot.

Newest (event time, offset) wins, so duplicates, replays and reordering change nothing. A deletion leaves a marker row,
and a flagged N2O record, so that a late upsert cannot raise the dead and behaviours can still point at the item.

A record is made of an item's row and of the snapshot of what users did to it, which the activity lane keeps. It is
*stale* where the model, the update or the snapshot has moved on since; rebuilds make stale ones again, those that the
activity lane announces first (fresh_items.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from domain.activity_row import Snapshots
from domain.lsh import hyperplanes, signatures
from domain.validation import NOT_FINITE_EMBEDDING, check_item_fields, finite_embeddings
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_key
from schemas.records import ItemRow, ItemUpdate
from streams.fold import Piece, RebuildPlace, SourceRecord, TableReader, Writes
from streams.fresh_items import ActivityReader, FreshItems, no_activity
from streams.intake import dead_letter, intake
from streams.item_rows import encode_item_rows
from streams.rollout import ItemModel
from streams.store import Row

__all__ = ["SLOT", "ItemUpdatesFold"]

#: The slot table that item vectors go to; a roll-out with more slots is decided by topic `rollout`.
SLOT: Final = "n2o_a"
#: Items looked at per piece of a rebuild: tens of milliseconds, so that live updates wait no longer.
_REBUILD_ITEMS: Final = 2_000


class ItemUpdatesFold:
    """Fold of topic item-updates into tables items and n2o_a."""

    source = "item-updates"
    tables = ("items", SLOT)

    def __init__(
        self, deployment: Deployment, activity: ActivityReader = no_activity, fresh: FreshItems | None = None
    ) -> None:
        self._deployment = deployment
        self.activity = activity
        self._fresh = FreshItems() if fresh is None else fresh
        self._topic = deployment.topic(self.source)
        self._signature_version = deployment.signature_version
        #: item_id, event_time_ms, source_topic_id, source_offset of a row: what decides whether an update wins.
        self._standing = codec("item_row").leading(4)
        self._model: ItemModel | None = None

    def use_model(self, model: ItemModel) -> None:
        """Compute item vectors with this model from now on; partitions recompute what other models made."""
        self._model = model

    def fold(self, partition: int, topic_id: int, records: Sequence[SourceRecord], tables: TableReader) -> Writes:
        """See streams/fold.py."""
        valid, letters = self._intake(partition, records)
        if not valid:
            return Writes({}, letters)
        newest = _newest(valid)
        current = self._current(newest, tables)
        winners = [
            (source, update)
            for item, (source, update) in newest.items()
            if _wins(update, source.offset, topic_id, current.get(item))
        ]
        rows = [self._row(update, source.offset, topic_id) for source, update in winners]
        self._sign(rows)
        encoded = encode_item_rows(rows, winners)
        # Where activity cannot be read now, records say that they have none, and are stale when it can.
        activity = self._activity(partition, [key for key, _ in encoded]) or Snapshots.none(len(rows))
        return Writes(
            rows={"items": encoded, SLOT: self._n2o(rows, activity)},
            dead_letters=letters,
            max_event_time_ms=max(update["event_time_ms"] for _, update in valid),
            counts={"superseded": len(valid) - len(winners)},
        )

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace) -> Piece:
        """Stale records made again: those of items with new snapshots, then the next ones of the partition.

        The scan finds, of a partition that was taken over, also what updates and snapshots left behind while there was
        no model or no activity to read. It waits where activity cannot be read.
        """
        model = self._model
        if model is None:
            return Piece(None, at, more=False)
        fresh = self._fresh.some(partition, _REBUILD_ITEMS)
        if fresh and (activity := self.activity(partition, list(fresh))) is not None:
            announced = list(fresh)
            shown = np.flatnonzero(activity.made_ms >= np.array(list(fresh.values())))
            keys = [announced[place] for place in shown.tolist()]
            if keys:
                writes = self._remade(model, keys, activity.take(shown), tables)
                self._fresh.seen(partition, {key: fresh[key] for key in keys})
                return Piece(writes, at, more=True)
        keys = tables.entity_keys("items", at[1] if at[0] == model.version else b"", _REBUILD_ITEMS)
        if not keys:
            return Piece(None, (model.version, at[1]), more=False)
        activity = self.activity(partition, keys)
        if activity is None:
            return Piece(None, at, more=False)
        return Piece(self._remade(model, keys, activity, tables), (model.version, keys[-1]), more=True)

    def _remade(self, model: ItemModel, keys: list[bytes], activity: Snapshots, tables: TableReader) -> Writes | None:
        """New records of those of these items whose record is stale; None where none is."""
        found = zip(tables.get_many("items", keys), tables.get_many(SLOT, keys), activity.made_ms.tolist(), strict=True)
        stale = {
            place: row
            for place, (row, record, made_ms) in enumerate(found)
            if row is not None and (record is None or not model.made(record, self._standing(row), made_ms))
        }
        if not stale:
            return None
        decode = codec("item_row").decode
        rows: list[Any] = [decode(value) for value in stale.values()]
        return Writes({SLOT: model.n2o_rows(rows, activity.take(list(stale)))})

    def _activity(self, partition: int, keys: list[bytes]) -> Snapshots | None:
        return self.activity(partition, keys) if self._model is not None and keys else None

    def _intake(
        self, partition: int, records: Sequence[SourceRecord]
    ) -> tuple[list[tuple[SourceRecord, Any]], list[Row]]:
        valid, letters = intake(
            records, self._topic, partition, codec("item_update"), check_item_fields, self._deployment
        )
        finite = finite_embeddings([update["embedding"] for _, update in valid], self._deployment)
        if not finite.all():
            error = BadRecord(*NOT_FINITE_EMBEDDING)
            letters += [dead_letter(valid[at][0], self._topic, partition, error) for at in np.flatnonzero(~finite)]
            valid = [pair for pair, good in zip(valid, finite, strict=True) if good]
        return valid, letters

    def _current(self, items: Sequence[int] | dict[int, Any], tables: TableReader) -> dict[int, dict[str, Any]]:
        ids = list(items)
        rows = tables.get_many("items", [entity_key(item) for item in ids])
        return {item: self._standing(row) for item, row in zip(ids, rows, strict=True) if row is not None}

    def _row(self, update: ItemUpdate, offset: int, topic_id: int) -> ItemRow:
        deleted = update["op"] == "delete"
        return ItemRow(
            item_id=update["item_id"],
            event_time_ms=update["event_time_ms"],
            source_topic_id=topic_id,
            source_offset=offset,
            deleted=deleted,
            original_id=update["original_id"],
            title=update["title"],
            category_id=update["category_id"],
            price=update["price"],
            published_ms=update["published_ms"],
            embedding=update["embedding"],
            numeric=update["numeric"],
            signature=None,
            signature_version=self._signature_version,
        )

    def _sign(self, rows: list[ItemRow]) -> None:
        embedded = [row for row in rows if row["embedding"] is not None]
        if not embedded:
            return
        deployment = self._deployment
        planes = hyperplanes(deployment.signature_seed, deployment.signature_bits, deployment.embedding_dim)
        joined = b"".join(row["embedding"] or b"" for row in embedded)
        packed = signatures(np.frombuffer(joined, dtype="<f4").reshape(-1, deployment.embedding_dim), planes)
        for row, signature in zip(embedded, packed, strict=True):
            row["signature"] = signature.tobytes()

    def _n2o(self, rows: list[ItemRow], activity: Snapshots) -> list[Row]:
        return self._model.n2o_rows(rows, activity) if self._model is not None and rows else []


def _newest(valid: list[tuple[SourceRecord, Any]]) -> dict[int, tuple[SourceRecord, ItemUpdate]]:
    newest: dict[int, tuple[SourceRecord, ItemUpdate]] = {}
    for source, update in valid:
        held = newest.get(update["item_id"])
        # Offsets ascend: at equal event times the later record wins.
        if held is None or update["event_time_ms"] >= held[1]["event_time_ms"]:
            newest[update["item_id"]] = (source, update)
    return newest


def _wins(update: ItemUpdate, offset: int, topic_id: int, row: dict[str, Any] | None) -> bool:
    """Whether an update replaces a row: by event time, then by offset where both are of the same topic."""
    if row is None:
        return True
    if update["event_time_ms"] != row["event_time_ms"]:
        return bool(update["event_time_ms"] > row["event_time_ms"])
    return bool(topic_id != row["source_topic_id"] or offset > row["source_offset"])
