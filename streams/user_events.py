"""The user lane: behaviours folded into one row per user (table `users`).

One read and one write per user per batch; all arithmetic is in domain/user_state.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from domain.user_state import EventBatch, fold
from domain.validation import check_user_event
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key
from streams.fold import Piece, RebuildPlace, SourceRecord, TableReader, Writes
from streams.intake import intake

__all__ = ["UserEventsFold"]


class UserEventsFold:
    """Fold of topic user-events into table users."""

    source = "user-events"
    tables = ("users",)

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
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
        folded = fold(self._heads(events, tables), batch, topic_id)
        encode = codec("user_head").encode
        return Writes(
            rows={"users": [(entity_key(user), encode(head)) for user, head in folded.heads.items()]},
            dead_letters=letters,
            max_event_time_ms=int(batch.event_time_ms.max()),
            counts={"duplicate": folded.duplicates, "replayed": folded.replayed, "late": folded.late},
        )

    def rebuild(self, partition: int, tables: TableReader, at: RebuildPlace) -> Piece:
        """Nothing: user rows do not depend on the model."""
        return Piece(None, at, more=False)

    def _heads(self, events: Sequence[Any], tables: TableReader) -> dict[int, Any]:
        users = list({event["user_id"] for event in events})
        rows = tables.get_many("users", [entity_key(user) for user in users])
        decode = codec("user_head").decode
        return {user: decode(row) for user, row in zip(users, rows, strict=True) if row is not None}
