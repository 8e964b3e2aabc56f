"""The user lane: behaviours folded into one row per user, with chunks of older behaviours behind it (table `users`).

One read and one write per user per batch; all arithmetic is in domain/user_state.py. What the fold accepts goes on to
topic item-activity, to the partitions of the items, in the batch's transaction. A sweep goes over the rows of a
partition, a page at a time between batches: it migrates rows whose features were declared otherwise, and deletes those
of users idle for too long by the partition's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from domain.activity_events import ActivityBatch, packed_activity
from domain.feature_plan import PLAN, Plan
from domain.migration import migrated
from domain.sequence import held_chunks
from domain.user_kernel import COUNTED, NEVER
from domain.user_row import FINGERPRINT
from domain.user_state import IDLE_MS, EventBatch, Folded, fold, open_chunks
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
        events = [event for _, event in valid]
        batch = EventBatch.of([source.offset for source, _ in valid], events)
        heads = self._heads(events, tables)
        moved = {user: head for user, head in heads.items() if head["declarations"] != self._plan.fingerprint}
        heads.update(self._migrated(moved, tables))
        folded = fold(
            heads, batch, topic_id, chunks=self._chunks(open_chunks(heads, batch), tables),
            clock_ms=_clock_ms(tables), idle_ms=self._idle_ms, plan=self._plan,
        )  # fmt: skip
        encode, encode_chunk = codec("user_head").encode, codec("user_chunk").encode
        rows: list[Row] = [(entity_key(user), encode(head)) for user, head in folded.heads.items()]
        for (user, number), chunk in folded.chunks.items():
            value = None if chunk is None else encode_chunk({"fingerprint": FINGERPRINT, "behaviours": chunk})
            rows.append((chunk_key(user, number), value))
        return Writes(
            rows={"users": rows},
            dead_letters=letters,
            max_event_time_ms=int(batch.event_time_ms.max()),
            counts={
                "duplicate": folded.duplicates, "replayed": folded.replayed, "late": folded.late,
                "expired": folded.expired, "migrated": len(moved),
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

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace) -> Piece:
        """The sweep's next page, nothing where no sweep is due.

        Of the place, the first part is the partition's clock when the sweep began.
        """
        clock_ms = _clock_ms(tables)
        began_ms, after = (int(at[0]), at[1]) if at[0] else (clock_ms, b"")
        if after == _SWEPT:
            if clock_ms < began_ms + _SWEEP_EVERY_MS:
                return Piece(None, at, more=False)
            began_ms, after = clock_ms, b""
        keys = tables.entity_keys("users", after, _PAGE)
        more = len(keys) == _PAGE
        return Piece(self._swept(keys, clock_ms, tables), (str(began_ms), keys[-1] if more else _SWEPT), more)

    def _swept(self, keys: list[bytes], clock_ms: int, tables: TableReader) -> Writes | None:
        """What a sweep changes of these rows and their chunks."""
        decode: Any = codec("user_head").decode
        values = tables.get_many("users", keys)
        heads = {entity_id(key): decode(value) for key, value in zip(keys, values, strict=True) if value is not None}
        rows: list[Row] = []
        idle = {user for user, head in heads.items() if head["newest_event_time_ms"] < clock_ms - self._idle_ms}
        for user in idle:
            rows += [(chunk_key(user, number), None) for number in held_chunks(heads[user]["moved"])]
            rows.append((entity_key(user), None))
        other = {
            user: head
            for user, head in heads.items()
            if user not in idle and head["declarations"] != self._plan.fingerprint
        }
        encode = codec("user_head").encode
        rows += [(entity_key(user), encode(head)) for user, head in self._migrated(other, tables).items()]
        return Writes({"users": rows}, counts={"swept": len(idle), "migrated": len(other)}) if rows else None

    def _heads(self, events: Sequence[Any], tables: TableReader) -> dict[int, Any]:
        users = list({event["user_id"] for event in events})
        rows = tables.get_many("users", [entity_key(user) for user in users])
        decode = codec("user_head").decode
        return {user: decode(row) for user, row in zip(users, rows, strict=True) if row is not None}

    def _migrated(self, heads: dict[int, Any], tables: TableReader) -> dict[int, Any]:
        """These rows, re-folded from their sequences as their features are declared now."""
        done = {}
        for user, head in heads.items():
            chunks = self._chunks([(user, number) for number in held_chunks(head["moved"])], tables)
            done[user] = migrated(head, {number: chunk for (_, number), chunk in chunks.items()}, self._plan)
        return done

    def _chunks(self, wanted: Sequence[tuple[int, int]], tables: TableReader) -> dict[tuple[int, int], bytes]:
        if not wanted:
            return {}
        rows = tables.get_many("users", [chunk_key(user, number) for user, number in wanted])
        decode = codec("user_chunk").decode
        return {place: decode(row)["behaviours"] for place, row in zip(wanted, rows, strict=True) if row is not None}


def _clock_ms(tables: TableReader) -> int:
    """The partition's clock as of the last committed batch."""
    mark = tables.get_many("users", [WATERMARK_KEY])[0]
    return NEVER if mark is None else int(codec("watermark").decode(mark)["max_event_time_ms"])
