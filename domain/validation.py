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
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_key
from schemas.records import ItemUpdate, UserEvent

__all__ = ["NOT_FINITE_EMBEDDING", "check_item_fields", "check_item_update", "check_user_event", "finite_embeddings"]

#: The verdict on an embedding that is not finite: reason and detail.
NOT_FINITE_EMBEDDING: Final = ("not_finite", "embedding holds NaN or infinity")


def check_item_update(record: ItemUpdate, key: bytes | None, append_time_ms: int, deployment: Deployment) -> None:
    """Raise BadRecord where an item update breaks its contract."""
    check_item_fields(record, key, append_time_ms, deployment)
    if not finite_embeddings([record["embedding"]], deployment)[0]:
        raise BadRecord(*NOT_FINITE_EMBEDDING)


def check_item_fields(record: ItemUpdate, key: bytes | None, append_time_ms: int, deployment: Deployment) -> None:
    """`check_item_update` but for the embedding's values, which `finite_embeddings` judges for a whole batch."""
    _check_key(key, record["item_id"])
    _check_time(record["event_time_ms"], append_time_ms, deployment)
    _check_finite("price", record["price"])
    for name, value in record["numeric"].items():
        _check_finite(f"numeric[{name}]", value)
    embedding = record["embedding"]
    if embedding is not None and len(embedding) != 4 * deployment.embedding_dim:
        raise BadRecord(
            "vector_length", f"embedding has {len(embedding)} bytes, expected {deployment.embedding_dim} float32"
        )


def finite_embeddings(embeddings: Sequence[bytes | None], deployment: Deployment) -> npt.NDArray[np.bool_]:
    """Whether each embedding, of the right length or None, is free of NaN and infinity ([n] bool).

    Apart from the other checks because one array operation for a batch costs a tenth of one for each record.
    """
    width = 4 * deployment.embedding_dim
    joined = b"".join([embedding if embedding is not None else bytes(width) for embedding in embeddings])
    values = np.frombuffer(joined, dtype="<f4").reshape(len(embeddings), deployment.embedding_dim)
    return np.asarray(np.isfinite(values).all(axis=1))


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
