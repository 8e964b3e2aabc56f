"""One running system for the tests of this folder: a real log replayed into it, and a model trained on that log."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from fleet import create_topics, running, wait_for
from integration.system import System

from models.aif import AIF
from models.config import ModelConfig
from models.export import Exported, export
from models.log import Log
from models.training import TrainingOptions, train
from producers.datasets import open_dataset
from producers.publish import publish
from producers.replay import Options, replay
from schemas.deployment import Deployment

DATASET, EVENTS = "online-retail-sample", 4_000


@dataclass(frozen=True)
class TrainedModel:
    """A model in memory and the artifact made of it."""

    model: AIF
    exported: Exported

    @property
    def version(self) -> str:
        """16 hex digits."""
        return self.exported.manifest.version


@pytest.fixture(scope="module")
def entries() -> list[tuple[str, Any]]:
    """The log: nearly three weeks of a real shop."""
    return list(open_dataset(DATASET, limit=EVENTS).entries())


@pytest.fixture(scope="module")
def first_model(entries: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Trained on the log, shortly."""
    config = ModelConfig()
    trained = train(Log.of(entries, config), config, TrainingOptions(seed=1, epochs=4, max_examples=1_500))
    return TrainedModel(trained.model, export(trained.model, {"dataset": DATASET}, tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="module")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Fresh weights of a seed: as unlike the first model as can be."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = AIF(ModelConfig()).eval()
    return TrainedModel(model, export(model, {"dataset": "none"}, tmp_path_factory.mktemp("second")))


@pytest.fixture(scope="module")
def system(
    broker: Any,
    entries: list[tuple[str, Any]],
    first_model: TrainedModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """A worker and a server that know the log, its last records sent twice, and serve the first model."""
    deployment = Deployment(
        bootstrap_servers=broker.bootstrap_servers,
        prefix=f"t{uuid.uuid4().hex[:10]}-",
        partitions=2,
        data_dir=tmp_path_factory.mktemp("system"),
    )
    system = System(deployment)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AIF_") and not name.startswith("AIF_TEST_")]:
            patch.delenv(name)
        create_topics(deployment)
        with running(system.worker):
            try:
                system.server.start()
                sent = replay(open_dataset(DATASET, limit=EVENTS), deployment, Options(), threading.Event())
                assert sent.complete and sent.events + sent.items == len(entries) and not sent.rejects
                system.shop.take(entries)
                system.send(entries[-30:])
                # Published while the worker still applies the log, as it happens.
                publish(deployment, str(first_model.exported.folder))
                system.worker.wait_ready(3 * deployment.partitions)
                wait_for(system.server.ready, 60)  # it listens; on a slow machine the worker is ready before
                system.settle()
                wait_for(lambda: (system.server.ready() or {}).get("model_version") == first_model.version, 60)
                yield system
            finally:
                system.server.stop()
