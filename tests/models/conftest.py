"""A small model, and a log with a planted truth: every user clicks items of one cluster of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.config import ModelConfig
from models.export import Exported, export
from models.log import Log
from models.training import Trained, TrainingOptions, train
from schemas.ids import hashed_id
from schemas.records import Action, ItemUpdate, UserEvent

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


def user_event(
    event_id: int, user_id: int, item_id: int, event_time_ms: int, action: Action = "click"
) -> UserEvent:
    """An event of one user with one item."""
    return {
        "event_id": event_id, "user_id": user_id, "item_id": item_id, "event_time_ms": event_time_ms, "action": action,
        "category_id": None, "value": None, "original_user_id": None, "original_item_id": None,
    }  # fmt: skip


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """A model that trains in seconds."""
    return ModelConfig(
        embedding_dim=16, category_buckets=32, category_dim=4, tower_hidden=32, vector_dim=16, bridges=4, behaviours=8,
        hidden=(32, 16),
    )  # fmt: skip


@pytest.fixture(scope="session")
def entries(config: ModelConfig) -> list[tuple[str, Any]]:
    """The planted log: nine clicks in ten are in the user's own cluster; one item in fifteen has no embedding."""
    random = np.random.default_rng(3)
    centres = random.standard_normal((_CLUSTERS, config.embedding_dim))
    log: list[tuple[str, Any]] = []
    for item in range(_ITEMS):
        vector = centres[item % _CLUSTERS] + 0.4 * random.standard_normal(config.embedding_dim)
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


@pytest.fixture(scope="session")
def log(entries: list[tuple[str, Any]], config: ModelConfig) -> Log:
    """The planted log as arrays."""
    return Log.of(entries, config)


@pytest.fixture(scope="session")
def options() -> TrainingOptions:
    """A short training."""
    return TrainingOptions(epochs=4, batch_size=128, learning_rate=5e-3)


@pytest.fixture(scope="session")
def trained(log: Log, config: ModelConfig, options: TrainingOptions) -> Trained:
    """A model of the planted log."""
    return train(log, config, options)


@pytest.fixture(scope="session")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Its artifact."""
    folder: Path = tmp_path_factory.mktemp("artifacts")
    return export(trained.model, {"dataset": "planted", "metrics": trained.metrics}, folder)
