"""A small model of the planted log, trained and exported once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planted import planted_entries

from models.config import ModelConfig
from models.export import Exported, export
from models.log import Log
from models.training import Trained, TrainingOptions, train


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """A model that trains in seconds."""
    return ModelConfig(
        embedding_dim=16, category_buckets=32, category_dim=4, tower_hidden=32, vector_dim=16, bridges=4, behaviours=8,
        long_behaviours=20, cross_categories=4, hidden=(32, 16),
    )  # fmt: skip


@pytest.fixture(scope="session")
def entries(config: ModelConfig) -> list[tuple[str, Any]]:
    """The planted log's records."""
    return planted_entries(config.embedding_dim)


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
