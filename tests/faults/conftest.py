"""Traffic and a model for fault tests: every table of both lanes is written, rebuilds included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fleet import Traffic, create_topics

from models.aif import AIF
from models.config import ModelConfig
from models.export import export
from producers.publish import publish
from schemas.deployment import Deployment


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained model."""
    torch.manual_seed(1)
    return export(AIF(ModelConfig.of(Deployment())), {"note": "untrained"}, tmp_path_factory.mktemp("artifacts")).folder


@pytest.fixture
def traffic(deployment: Deployment, artifact: Path) -> Iterator[Traffic]:
    """Seeded traffic into the deployment's topics, which it creates, and a published model."""
    create_topics(deployment)
    publish(deployment, str(artifact))
    source = Traffic(deployment, seed=20251112)
    yield source
    source.close()
