"""The user lane: behaviours folded into one row per user, with chunks of older behaviours behind it (table `users`).

One read and one write per user per batch; all arithmetic is in domain/user_state.py. What the fold accepts goes on to
topic item-activity, to the partitions of the items, in the batch's transaction. A sweep goes over the rows of a
partition, a page at a time between batches: it migrates rows whose features were declared otherwise, and deletes those
of users idle for too long by the partition's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from domain.activity_events import ActivityBatch, packed_activity
from domain.feature_plan import PLAN, Plan
from domain.migration import migrated
from domain.sequence import held_chunks
from domain.user_kernel import COUNTED, NEVER
from domain.user_row import FINGERPRINT, row_prefix
from domain.user_state import IDLE_MS, EventBatch, Folded, fold
from domain.validation import check_user_event
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import WATERMARK_KEY, chunk_key, entity_id, entity_key
from streams.fold import Outgoing, Piece, RebuildPlace, SourceRecord, TableReader, Writes
from streams.intake import intake
from streams.store import Row

__all__ = ["UserEventsFold"]

#: Rows that the sweep reads at a time: some milliseconds.
_PAGE: Final = 500
#: Fields of a head that say whether it is idle and what chunks it has.
_LEADING: Final = 6
#: Event time between two sweeps of a partition.
_SWEEP_EVERY_MS: Final = 86_400_000
#: Where a sweep that is through stands until the next: behind every entity's key.
_SWEPT: Final = b"\xff" * 9


class UserEventsFold:
    """Fold of topic user-events into table users."""

    source = "user-events"
    tables = ("users",)

    def __init__(self, deployment: Deployment, *, idle_ms: int = IDLE_MS, plan: Plan = PLAN) -> None:
        self._deployment, self._idle_ms, self._plan = deployment, idle_ms, plan
        self._topic = deployment.topic(self.source)

    def fold(self, partition: int, topic_id: int, records: Sequence[SourceRecord], tables: TableReader) -> Writes:
        """See streams/fold.py."""
        valid, letters = intake(
            records, self._topic, partition, codec("user_event"), check_user_event, self._deployment
        )
        if not valid:
            return Writes({}, letters)
        batch = EventBatch.of([source.offset for source, _ in valid], [event for _, event in valid])
        heads = self._heads(batch, tables)
        other = self._declared_otherwise(heads)
        heads.update(self._migrated(other, tables))
        folded = fold(
            heads, batch, topic_id, read_chunks=lambda wanted: _chunks(wanted, tables), clock_ms=_clock_ms(tables),
            idle_ms=self._idle_ms, plan=self._plan,
        )  # fmt: skip
        encode_chunk = codec("user_chunk").encode
        rows: list[Row] = [(entity_key(user), head) for user, head in folded.heads.items()]
        for (user, number), chunk in folded.chunks.items():
            value = None if chunk is None else encode_chunk({"fingerprint": FINGERPRINT, "behaviours": chunk})
            rows.append((chunk_key(user, number), value))
        return Writes(
            rows={"users": rows},
            dead_letters=letters,
            max_event_time_ms=int(batch.event_time_ms.max()),
            counts={
                "duplicate": folded.duplicates, "replayed": folded.replayed, "late": folded.late,
                "expired": folded.expired, "migrated": len(other),
            },
            outgoing=self._activity(partition, topic_id, batch, folded),
        )  # fmt: skip

    def _activity(self, partition: int, topic_id: int, batch: EventBatch, folded: Folded) -> list[Outgoing]:
        """The batch's accepted events, one record for each partition of their items."""
        accepted = batch.take(folded.verdicts == COUNTED)
        events = ActivityBatch(accepted.item_id, accepted.event_time_ms, accepted.action)
        key, encode = entity_key(partition), codec("item_activity").encode
        record: dict[str, Any] = {
            "source_topic_id": topic_id, "source_partition": partition,
            "first_offset": int(accepted.offset[0]) if len(accepted) else 0, "next_offset": int(batch.offset[-1]) + 1,
        }  # fmt: skip
        return [
            Outgoing("item-activity", target, key, encode({**record, "events": packed}))
            for target, packed in packed_activity(accepted.offset, events, self._deployment.partitions).items()
        ]

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace, limit: int) -> Piece:
        """The sweep's next page, nothing where no sweep is due.

        Of the place, the first part is the partition's clock when the sweep began.
        """
        clock_ms = _clock_ms(tables)
        began_ms, after = (int(at[0]), at[1]) if at[0] else (clock_ms, b"")
        if after == _SWEPT:
            if clock_ms < began_ms + _SWEEP_EVERY_MS:
                return Piece(None, at, more=False)
            began_ms, after = clock_ms, b""
        page = min(limit, _PAGE)
        keys = tables.entity_keys("users", after, page)
        more = len(keys) == page
        return Piece(
            self._swept(keys, clock_ms, tables), (str(began_ms), keys[-1] if more else _SWEPT), more, len(keys)
        )

    def _swept(self, keys: list[bytes], clock_ms: int, tables: TableReader) -> Writes | None:
        """What a sweep changes of these rows and their chunks."""
        decode: Any = codec("user_head").leading(_LEADING)
        values = tables.get_many("users", keys)
        heads = {entity_id(key): value for key, value in zip(keys, values, strict=True) if value is not None}
        read = {user: decode(head) for user, head in heads.items()}
        rows: list[Row] = []
        idle = {user for user, head in read.items() if head["newest_event_time_ms"] < clock_ms - self._idle_ms}
        for user in idle:
            rows += [(chunk_key(user, number), None) for number in held_chunks(read[user]["counted"])]
            rows.append((entity_key(user), None))
        other = self._declared_otherwise({user: head for user, head in heads.items() if user not in idle})
        rows += [(entity_key(user), head) for user, head in self._migrated(other, tables).items()]
        return Writes({"users": rows}, counts={"swept": len(idle), "migrated": len(other)}) if rows else None

    def _heads(self, batch: EventBatch, tables: TableReader) -> dict[int, bytes]:
        users: list[int] = np.unique(batch.user_id).tolist()
        rows = tables.get_many("users", [entity_key(user) for user in users])
        return {user: row for user, row in zip(users, rows, strict=True) if row is not None}

    def _declared_otherwise(self, heads: dict[int, bytes]) -> dict[int, bytes]:
        prefix = row_prefix(self._plan.fingerprint)
        return {user: head for user, head in heads.items() if not head.startswith(prefix)}

    def _migrated(self, heads: dict[int, bytes], tables: TableReader) -> dict[int, bytes]:
        """These rows, re-folded from their sequences as their features are declared now."""
        decode: Any = codec("user_head").decode
        done = {}
        for user, encoded in heads.items():
            head = decode(encoded)
            chunks = _chunks([(user, number) for number in held_chunks(head["counted"])], tables)
            row = migrated(head, {number: chunk for (_, number), chunk in chunks.items()}, self._plan)
            done[user] = codec("user_head").encode(row)
        return done


def _chunks(wanted: Sequence[tuple[int, int]], tables: TableReader) -> dict[tuple[int, int], bytes]:
    """Packed behaviours of those of these chunks that are there."""
    if not wanted:
        return {}
    rows = tables.get_many("users", [chunk_key(user, number) for user, number in wanted])
    decode = codec("user_chunk").decode
    return {place: decode(row)["behaviours"] for place, row in zip(wanted, rows, strict=True) if row is not None}


def _clock_ms(tables: TableReader) -> int:
    """The partition's clock as of the last committed batch."""
    mark = tables.get_many("users", [WATERMARK_KEY])[0]
    return NEVER if mark is None else int(codec("watermark").decode(mark)["max_event_time_ms"])
