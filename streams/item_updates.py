"""The item lane: catalogue updates to rows of `items` and, through each fed version's item tower, of its slot.

Newest (event time, offset) wins, so duplicates, replays and reordering change nothing. A deletion leaves a marker row,
and a flagged N2O record, so that a late upsert cannot raise the dead and behaviours can still point at the item.

Topic rollout says which versions are fed: every update goes into the slots of all of them, in one transaction. A
record is made of an item's row and of the snapshot of what users did to it, which the activity lane keeps. Records of
items with new snapshots, which that lane announces (fresh_items.py), are made again, and so are those that a scan of a
slot finds stale (slot_builds.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from domain.activity_row import Snapshots
from domain.item_column_kernel import decoded_items
from domain.item_columns import RowFormat
from domain.lsh import hyperplanes, signatures
from domain.rollout import SLOTS
from domain.validation import NOT_FINITE_EMBEDDING, check_item_fields, finite_embeddings
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_key
from schemas.records import ItemRow, ItemUpdate
from streams.fold import Piece, RebuildPlace, SourceRecord, TableReader, Writes
from streams.fresh_items import ActivityReader, FreshItems, no_activity
from streams.intake import dead_letter, intake
from streams.item_model import Feed
from streams.item_rows import encode_item_rows
from streams.slot_builds import PartitionSlots, remade
from streams.store import Row

__all__ = ["ItemUpdatesFold"]


class ItemUpdatesFold:
    """Fold of topic item-updates into table items and the slots."""

    source = "item-updates"
    tables = ("items", *SLOTS)

    def __init__(
        self, deployment: Deployment, activity: ActivityReader = no_activity, fresh: FreshItems | None = None,
        worker: str = "",
    ) -> None:  # fmt: skip
        self._deployment, self._worker = deployment, worker
        self.activity = activity
        self._fresh = FreshItems() if fresh is None else fresh
        self._topic = deployment.topic(self.source)
        self._signature_version = deployment.signature_version
        self._row_format = RowFormat(deployment.embedding_dim, deployment.signature_bits, deployment.signature_version)
        #: item_id, event_time_ms, source_topic_id, source_offset of a row: what decides whether an update wins.
        self._standing = codec("item_row").leading(4)
        self._feeds: Mapping[str, Feed] = {}
        self._outdated: Mapping[int, list[str]] = {}
        self.slots: dict[int, PartitionSlots] = {}

    def feed(self, feeds: Mapping[str, Feed]) -> None:
        """Keep the rows of these versions, by slot, from the next batch on; scans find what they lack."""
        self._feeds = dict(feeds)

    def withdraw(self, outdated: Iterable[tuple[str, int]]) -> None:
        """Delete the reports of these versions and partitions from build-progress, where the version is not fed."""
        by_partition: dict[int, list[str]] = {}
        for version, partition in outdated:
            by_partition.setdefault(partition, []).append(version)
        self._outdated = by_partition

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
        vectors = self._vectors(partition, encoded)
        if (slots := self.slots.get(partition)) is not None:
            slots.applied(vectors, {entity_key(row["item_id"]) for row in rows if row["item_id"] not in current})
        return Writes(
            rows={"items": encoded, **vectors},
            dead_letters=letters,
            max_event_time_ms=max(update["event_time_ms"] for _, update in valid),
            counts={"superseded": len(valid) - len(winners), "not_finite": _rejected(vectors)},
        )

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace, limit: int) -> Piece:
        """Records of items with new snapshots, in turn with what the slots lack.

        A partition that was taken over is scanned from the start: that finds what updates and snapshots left behind
        while a model or the activity could not be read, and whatever its last owner did not come to.
        """
        if not isinstance(at, PartitionSlots):
            at = PartitionSlots(partition, self._worker)
        slots = self.slots[partition] = at
        feeds = self._feeds
        if slots.snapshots_next and (writes := self._fresh_records(partition, feeds, tables, limit)) is not None:
            slots.snapshots_next = False
            slots.applied(writes.rows, set())
            return Piece(writes, at, more=True, looked=sum(map(len, writes.rows.values())))
        slots.snapshots_next = True
        writes, more, looked = slots.piece(
            feeds, tables, lambda keys: self.activity(partition, keys), limit, self._outdated.get(partition, ())
        )
        return Piece(writes, at, more, looked)

    def _fresh_records(
        self, partition: int, feeds: Mapping[str, Feed], tables: TableReader, limit: int
    ) -> Writes | None:
        """Records made again of items whose announced snapshots the activity table shows; None where there are none."""
        fresh = self._fresh.some(partition, limit)
        if not fresh or not feeds or (activity := self.activity(partition, list(fresh))) is None:
            return None
        announced = list(fresh)
        shown = np.flatnonzero(activity.made_ms >= np.array(list(fresh.values())))
        keys = [announced[place] for place in shown.tolist()]
        if not keys:
            return None
        rows = self._remade(feeds, keys, activity.take(shown), tables)
        self._fresh.seen(partition, {key: fresh[key] for key in keys})
        return Writes(rows, counts={"not_finite": _rejected(rows)})

    def _remade(
        self, feeds: Mapping[str, Feed], keys: list[bytes], activity: Snapshots, tables: TableReader
    ) -> dict[str, list[Row]]:
        """Stale records of these items made again, in every slot whose model is here."""
        values = tables.get_many("items", keys)
        held = [place for place, value in enumerate(values) if value is not None]
        keys, activity = [keys[place] for place in held], activity.take(held)
        items = decoded_items([value for value in values if value is not None], self._row_format)
        return {
            slot: remade(feed.model, keys, items, tables.get_many(slot, keys), activity)[0]
            for slot, feed in feeds.items()
            if feed.model is not None
        }

    def _vectors(self, partition: int, encoded: list[Row]) -> dict[str, list[Row]]:
        """Records of these rows of table items, in every slot whose model is here."""
        models = {slot: feed.model for slot, feed in self._feeds.items() if feed.model is not None}
        if not encoded or not models:
            return {}
        keys = [key for key, _ in encoded]
        # Where activity cannot be read now, records say that they have none, and are stale when it can.
        activity = self.activity(partition, keys) or Snapshots.none(len(keys))
        items = decoded_items([value for _, value in encoded if value is not None], self._row_format)
        return {slot: model.n2o_rows(keys, items, activity) for slot, model in models.items()}

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


def _rejected(rows: Mapping[str, Sequence[Row]]) -> int:
    return sum(value is None for made in rows.values() for _, value in made)


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
