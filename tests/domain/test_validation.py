"""Every reason for which a decoded record is refused, and what just passes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from domain.validation import check_item_update, check_user_event
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_key
from schemas.records import ItemUpdate, UserEvent

DEPLOYMENT = Deployment(embedding_dim=4, future_tolerance_ms=1_000)
APPENDED = 1_500_000_000_000
EVENT: UserEvent = {
    "event_id": 1, "user_id": 7, "item_id": 3, "event_time_ms": APPENDED, "action": "click",
    "category_id": None, "value": 1.5, "original_user_id": None, "original_item_id": None,
}  # fmt: skip
UPDATE: ItemUpdate = {
    "event_id": 1, "item_id": 7, "event_time_ms": APPENDED, "op": "upsert", "original_id": None, "title": None,
    "category_id": None, "price": 2.0, "published_ms": None, "embedding": np.ones(4, "<f4").tobytes(),
    "numeric": {"rating": 4.5},
}  # fmt: skip
KEY = entity_key(7)


def reason_of(check, record, key=KEY) -> str | None:
    """The reason for which a record is refused; None where it passes."""
    try:
        check(record, key, APPENDED, DEPLOYMENT)
    except BadRecord as error:
        return error.reason
    return None


@pytest.mark.parametrize(("check", "record"), [(check_user_event, EVENT), (check_item_update, UPDATE)])
@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({}, KEY, None),
        ({}, None, "null_key"),
        ({}, b"", "key_mismatch"),
        ({}, entity_key(8), "key_mismatch"),
        ({"event_time_ms": -1}, KEY, "negative_time"),
        ({"event_time_ms": 0}, KEY, None),
        ({"event_time_ms": APPENDED + 1_000}, KEY, None),
        ({"event_time_ms": APPENDED + 1_001}, KEY, "far_future"),
    ],
)
def test_keys_and_times(check, record, change, key, reason) -> None:
    """Both kinds of record are held to their key, to 1970 and to the broker's time plus the tolerance."""
    assert reason_of(check, {**record, **change}, key) == reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_are_finite(value) -> None:
    """NaN and infinity are refused wherever a number stands."""
    assert reason_of(check_user_event, {**EVENT, "value": value}) == "not_finite"
    assert reason_of(check_item_update, {**UPDATE, "price": value}) == "not_finite"
    assert reason_of(check_item_update, {**UPDATE, "numeric": {"rating": value}}) == "not_finite"
    embedding = np.array([0, 1, value, 2], "<f4").tobytes()
    assert reason_of(check_item_update, {**UPDATE, "embedding": embedding}) == "not_finite"


@pytest.mark.parametrize("length", [0, 15, 17, 12, 20])
def test_embeddings_have_the_deployments_length(length) -> None:
    """An embedding of another size is refused, also where it is no whole number of values."""
    assert reason_of(check_item_update, {**UPDATE, "embedding": bytes(length)}) == "vector_length"


def test_everything_optional_may_be_missing() -> None:
    """A record without its optional fields passes."""
    assert reason_of(check_user_event, {**EVENT, "value": None}) is None
    assert reason_of(check_item_update, {**UPDATE, "price": None, "embedding": None, "numeric": {}}) is None
