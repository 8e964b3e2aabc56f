"""What makes a decoded record acceptable: a verdict from the log alone, so that a recompute reaches the same one.

Each check raises BadRecord with a reason from this table; the reasons are the labels of dead letters and metrics.

=================== =====================================================================
null_key            the Kafka key is missing
key_mismatch        the key is not the record's own id: it may be in the wrong partition
negative_time       event time before 1970
far_future          event time beyond LogAppendTime plus the deployment's tolerance
vector_length       the embedding does not have the deployment's number of float32 values
not_finite          NaN or infinity in a feature
=================== =====================================================================
"""

from __future__ import annotations

import math

import numpy as np

from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_key
from schemas.records import ItemUpdate, UserEvent

__all__ = ["check_item_update", "check_user_event"]


def check_item_update(record: ItemUpdate, key: bytes | None, append_time_ms: int, deployment: Deployment) -> None:
    """Raise BadRecord where an item update breaks its contract."""
    _check_key(key, record["item_id"])
    _check_time(record["event_time_ms"], append_time_ms, deployment)
    _check_finite("price", record["price"])
    for name, value in record["numeric"].items():
        _check_finite(f"numeric[{name}]", value)
    embedding = record["embedding"]
    if embedding is not None:
        if len(embedding) != 4 * deployment.embedding_dim:
            raise BadRecord(
                "vector_length", f"embedding has {len(embedding)} bytes, expected {deployment.embedding_dim} float32"
            )
        if not np.isfinite(np.frombuffer(embedding, dtype="<f4")).all():
            raise BadRecord("not_finite", "embedding holds NaN or infinity")


def check_user_event(record: UserEvent, key: bytes | None, append_time_ms: int, deployment: Deployment) -> None:
    """Raise BadRecord where a user event breaks its contract."""
    _check_key(key, record["user_id"])
    _check_time(record["event_time_ms"], append_time_ms, deployment)
    _check_finite("value", record["value"])


def _check_key(key: bytes | None, entity: int) -> None:
    if key is None:
        raise BadRecord("null_key", f"expected the 8-byte key of {entity}")
    if key != entity_key(entity):
        raise BadRecord("key_mismatch", f"key {key[:16].hex()} is not that of {entity}")


def _check_time(event_time_ms: int, append_time_ms: int, deployment: Deployment) -> None:
    if event_time_ms < 0:
        raise BadRecord("negative_time", f"event_time_ms is {event_time_ms}")
    if event_time_ms > append_time_ms + deployment.future_tolerance_ms:
        ahead_s = (event_time_ms - append_time_ms) / 1000
        raise BadRecord("far_future", f"event time is {ahead_s:.0f} s after the record was written")


def _check_finite(name: str, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise BadRecord("not_finite", f"{name} is {value}")
