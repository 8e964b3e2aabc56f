"""A log with a planted truth for models to find: every user clicks items of one cluster of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.ids import hashed_id
from schemas.records import Action, ItemUpdate, UserEvent

__all__ = ["item_update", "planted_entries", "user_event"]

_CLUSTERS, _ITEMS, _USERS, _EVENTS = 6, 90, 40, 3000
_START_MS = 1_700_000_000_000


def item_update(item_id: int, event_time_ms: int, **fields: Any) -> ItemUpdate:
    """A catalogue update with every optional field empty unless given."""
    empty: ItemUpdate = {
        "event_id": hashed_id(f"item {item_id} {event_time_ms}"), "item_id": item_id, "event_time_ms": event_time_ms,
        "op": "upsert", "original_id": None, "title": None, "category_id": None, "price": None, "published_ms": None,
        "embedding": None, "numeric": {},
    }  # fmt: skip
    return {**empty, **fields}  # type: ignore[typeddict-item]


def user_event(event_id: int, user_id: int, item_id: int, event_time_ms: int, action: Action = "click") -> UserEvent:
    """An event of one user with one item."""
    return {
        "event_id": event_id, "user_id": user_id, "item_id": item_id, "event_time_ms": event_time_ms, "action": action,
        "category_id": None, "value": None, "original_user_id": None, "original_item_id": None,
    }  # fmt: skip


def planted_entries(embedding_dim: int) -> list[tuple[str, Any]]:
    """The planted log: nine clicks in ten are in the user's own cluster; one item in fifteen has no embedding."""
    random = np.random.default_rng(3)
    centres = random.standard_normal((_CLUSTERS, embedding_dim))
    log: list[tuple[str, Any]] = []
    for item in range(_ITEMS):
        vector = centres[item % _CLUSTERS] + 0.4 * random.standard_normal(embedding_dim)
        embedding = vector.astype("<f4").tobytes() if item % 15 else None
        price = float(item + 1) if item % 4 else None
        fields = {"embedding": embedding, "price": price, "category_id": item % _CLUSTERS, "numeric": {"words": item}}
        log.append(("item", item_update(item, _START_MS, **fields)))
    for event in range(_EVENTS):
        user = int(random.integers(_USERS))
        cluster = user % _CLUSTERS if random.random() < 0.9 else int(random.integers(_CLUSTERS))
        item = cluster + _CLUSTERS * int(random.integers(_ITEMS // _CLUSTERS))
        at_ms = _START_MS + event * 60_000
        log.append(("user", user_event(event, user, item, at_ms, "click" if event % 3 else "purchase")))
    return log
