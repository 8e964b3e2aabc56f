"""A log of its own for experiments, as small as trainings of seconds need."""

from __future__ import annotations

from typing import Any

import pytest
from planted import planted_entries

from experiments.logs import Plan
from experiments.measured import Data, data_of
from models.config import ModelConfig
from models.log import Log

PLAN = Plan(examples=1200, held_out=0.3, trained=200, judged=100)


@pytest.fixture(scope="session")
def small() -> ModelConfig:
    """A model that trains in a second."""
    return ModelConfig(
        embedding_dim=16, category_buckets=32, category_dim=4, tower_hidden=16, vector_dim=8, bridges=4, behaviours=6,
        long_behaviours=12, cross_categories=4, hidden=(16, 8),
    )  # fmt: skip


@pytest.fixture(scope="session")
def data(small: ModelConfig) -> Data:
    """What is trained and judged on."""
    return data_of(Log.of(planted_entries(small.embedding_dim), small), small, PLAN)


@pytest.fixture
def one_log(monkeypatch: pytest.MonkeyPatch, small: ModelConfig) -> Any:
    """Makes an experiment's module run on the small log with small models."""
    import experiments.measured

    log = Log.of(planted_entries(small.embedding_dim), small)

    def prepare(module: Any, config: ModelConfig = small, names: tuple[str, ...] = ("shop",)) -> None:
        monkeypatch.setattr(experiments.measured, "PLANS", dict.fromkeys(names, PLAN))
        monkeypatch.setattr(experiments.measured, "open_log", lambda *_: log)
        monkeypatch.setattr(module, "_CONFIG", config)
        if hasattr(module, "_LOGS"):
            monkeypatch.setattr(module, "_LOGS", names)

    return prepare
