"""The activity lane: what users did to items, folded into one row per item (table `item_activity`).

Its records come from the user lane, cut by the partition of the items. Rows under the keys of sources say how far each
partition of user-events is counted: an event that comes again, in batches cut otherwise, changes nothing. All
arithmetic is in domain/item_activity.py. Items whose snapshot moves are announced to the item lane (fresh_items.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from domain.activity_events import Intake, check_item_activity
from domain.item_activity import fold
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_id, entity_key, source_key
from streams.fold import Piece, RebuildPlace, SourceRecord, TableReader, Writes
from streams.fresh_items import FreshItems
from streams.intake import intake
from streams.store import Row

__all__ = ["ItemActivityFold"]


class ItemActivityFold:
    """Fold of topic item-activity into table item_activity."""

    source = "item-activity"
    tables = ("item_activity",)

    def __init__(self, deployment: Deployment, fresh: FreshItems | None = None) -> None:
        self._deployment = deployment
        self._topic = deployment.topic(self.source)
        self._fresh = FreshItems() if fresh is None else fresh

    def fold(self, partition: int, topic_id: int, records: Sequence[SourceRecord], tables: TableReader) -> Writes:
        """See streams/fold.py."""
        valid, letters = intake(
            records, self._topic, partition, codec("item_activity"), check_item_activity, self._deployment
        )
        if not valid:
            return Writes({}, letters)
        taken = self._intake([record for _, record in valid], tables)
        events = taken.events()
        keys = [entity_key(item) for item in dict.fromkeys(events.item_id.tolist())]
        decode: Any = codec("item_activity_row").decode
        held = zip(keys, tables.get_many("item_activity", keys), strict=True)
        rows = {entity_id(key): decode(value) for key, value in held if value is not None}
        folded = fold(rows, events, self._deployment.reembed_interval_ms)
        moved = {
            entity_key(item): row["snapshot_ms"]
            for item, row in folded.rows.items()
            if item not in rows or rows[item]["snapshot_ms"] != row["snapshot_ms"]
        }
        self._fresh.announce(partition, moved)
        return Writes(
            rows={"item_activity": self._encoded(folded.rows, taken)},
            dead_letters=letters,
            max_event_time_ms=int(events.event_time_ms.max()) if len(events) else None,
            counts={"events": len(events), "repeated": taken.repeated, "late": folded.late, "snapshots": len(moved)},
        )

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace, limit: int) -> Piece:
        """Nothing: rows are a function of the log alone."""
        return Piece(None, at, more=False)

    def _intake(self, records: list[Any], tables: TableReader) -> Intake:
        sources = list({(record["source_topic_id"], record["source_partition"]) for record in records})
        found = tables.get_many("item_activity", [source_key(*source) for source in sources])
        decode = codec("activity_source").decode
        known = {
            source: decode(value)["next_offset"]
            for source, value in zip(sources, found, strict=True)
            if value is not None
        }
        taken = Intake(known)
        for record in records:
            taken.take(record)
        return taken

    def _encoded(self, rows: dict[int, Any], taken: Intake) -> list[Row]:
        encode, encode_source = codec("item_activity_row").encode, codec("activity_source").encode
        return [
            *((entity_key(item), encode(row)) for item, row in rows.items()),
            *((source_key(*source), encode_source({"next_offset": at})) for source, at in taken.next_offset.items()),
        ]
