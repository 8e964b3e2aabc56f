"""Traffic for fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Traffic, create_topics

from schemas.deployment import Deployment


@pytest.fixture
def traffic(deployment: Deployment) -> Iterator[Traffic]:
    """Seeded traffic into the deployment's topics, which it creates."""
    create_topics(deployment)
    source = Traffic(deployment, seed=20251112)
    yield source
    source.close()
