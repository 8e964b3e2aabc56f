"""The records as typed dictionaries: what `codec(name)` encodes and decodes.

Plain dictionaries and not classes, because fastavro makes them at C speed; the types cost nothing at run time. A test
holds each equal to its schema.
"""

from __future__ import annotations

from typing import Literal, TypedDict, get_args

__all__ = [
    "ACTIONS",
    "ACTION_CODES",
    "Action",
    "ActivitySource",
    "BuildProgress",
    "DeadLetter",
    "ItemActivity",
    "ItemActivityRow",
    "ItemRow",
    "ItemUpdate",
    "ModelVersion",
    "N2ORow",
    "RolloutEvent",
    "ShadowReport",
    "UserChunk",
    "UserEvent",
    "UserHead",
    "Watermark",
]

Action = Literal[
    "impression", "view", "click", "like", "follow", "comment", "share",
    "favourite", "cart", "purchase", "cancel", "long_view", "dislike", "other",
]  # fmt: skip

#: All actions; the position of an action is its code in packed rows and never changes.
ACTIONS: tuple[Action, ...] = get_args(Action)
ACTION_CODES: dict[Action, int] = {action: code for code, action in enumerate(ACTIONS)}


class ItemUpdate(TypedDict):
    """See avro/item_update.avsc."""

    event_id: int
    item_id: int
    event_time_ms: int
    op: Literal["upsert", "delete"]
    original_id: str | None
    title: str | None
    category_id: int | None
    price: float | None
    published_ms: int | None
    embedding: bytes | None
    numeric: dict[str, float]


class UserEvent(TypedDict):
    """See avro/user_event.avsc."""

    event_id: int
    user_id: int
    item_id: int
    event_time_ms: int
    action: Action
    category_id: int | None
    value: float | None
    original_user_id: str | None
    original_item_id: str | None


class ItemActivity(TypedDict):
    """See avro/item_activity.avsc."""

    source_topic_id: int
    source_partition: int
    first_offset: int
    next_offset: int
    events: bytes


class ModelVersion(TypedDict):
    """See avro/model_version.avsc."""

    event_id: int
    event_time_ms: int
    version: str
    manifest_sha256: str
    uri: str
    published_by: str
    reason: str
    command: Literal["publish", "promote", "rollback", "pause", "resume", "retire"]
    gate: float
    auto: bool
    shadow_s: int
    min_overlap: float
    retain_s: int


class RolloutEvent(TypedDict):
    """See avro/rollout_event.avsc."""

    epoch: int
    event_time_ms: int
    decision: Literal[
        "accept", "refuse", "build", "cover", "live", "rollback", "pause", "resume", "retire", "reject",
    ]  # fmt: skip
    version: str
    slot: str
    command_offset: int
    uri: str
    manifest_sha256: str
    gate: float
    auto: bool
    shadow_s: int
    min_overlap: float
    retain_s: int
    by: str
    reason: str


class BuildProgress(TypedDict):
    """See avro/build_progress.avsc."""

    version: str
    partition: int
    build_epoch: int
    items: int
    written: int
    rejected: int
    done: bool
    items_per_s: float
    problem: str
    worker: str
    event_time_ms: int


class ShadowReport(TypedDict):
    """See avro/shadow_report.avsc."""

    version: str
    build_epoch: int
    live: str
    node: str
    event_time_ms: int
    share: float
    requests: int
    dropped: int
    incomparable: int
    failed: int
    overlap_sum: float
    correlation_sum: float
    drift_sum: float
    shift_sum: float
    live_ms_sum: float
    shadow_ms_sum: float


class DeadLetter(TypedDict):
    """See avro/dead_letter.avsc."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    append_time_ms: int
    key: bytes | None
    value: bytes | None


class ItemRow(TypedDict):
    """See avro/item_row.avsc."""

    item_id: int
    event_time_ms: int
    source_topic_id: int
    source_offset: int
    deleted: bool
    original_id: str | None
    title: str | None
    category_id: int | None
    price: float | None
    published_ms: int | None
    embedding: bytes | None
    numeric: dict[str, float]
    signature: bytes | None
    signature_version: str


class N2ORow(TypedDict):
    """See avro/n2o_row.avsc."""

    record: bytes


class ItemActivityRow(TypedDict):
    """See avro/item_activity_row.avsc."""

    fingerprint: int
    snapshot_ms: int
    snapshot: bytes
    newest_event_time_ms: int
    tiles: bytes


class ActivitySource(TypedDict):
    """See avro/activity_source.avsc."""

    next_offset: int


class UserHead(TypedDict):
    """See avro/user_head.avsc."""

    fingerprint: int
    declarations: int
    source_topic_id: int
    source_offset: int
    newest_event_time_ms: int
    counted: int
    last_event_time_ms: int
    tiles: bytes
    values: bytes
    registers: bytes
    ranked: bytes
    event_ids: bytes
    behaviours: bytes
    category_index: bytes


class UserChunk(TypedDict):
    """See avro/user_chunk.avsc."""

    fingerprint: int
    behaviours: bytes


class Watermark(TypedDict):
    """See avro/watermark.avsc."""

    source_topic_id: int
    next_source_offset: int
    max_event_time_ms: int
    oldest_append_time_ms: int
    writer_epoch: int
    wall_time_ms: int
