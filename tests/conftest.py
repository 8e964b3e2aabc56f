"""The real broker of the tests, started on first use, and a deployment of its own for every test that asks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest

from schemas.deployment import Deployment
from serving.kernels import choose

# A test says what is true, not how fast: how long an example takes is the machine's affair.
hypothesis.settings.register_profile("aif", deadline=None)
hypothesis.settings.load_profile("aif")


class Broker(Protocol):
    """What fault tests need of a broker."""

    @property
    def bootstrap_servers(self) -> str:
        """host:port list."""

    def start(self) -> bool:
        """Runs it (again) and returns when it answers."""

    def kill(self) -> None:
        """Ends it as a crash would."""


class _ForeignBroker:
    """A broker that AIF_TEST_BOOTSTRAP_SERVERS names: used, never started or killed."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    def start(self) -> bool:
        """Refuses: it is not ours."""
        pytest.fail("this test restarts its broker; run it without AIF_TEST_BOOTSTRAP_SERVERS")

    def kill(self) -> None:
        """Refuses: it is not ours."""
        self.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Broker tests last: a mistake that a quick test shows should not wait for the slow ones."""
    items.sort(key=lambda item: item.get_closest_marker("broker") is not None)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no AIF_* variable of the shell that runs them."""
    for name in os.environ:
        if name.startswith("AIF_") and not name.startswith("AIF_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _exact_scores() -> None:
    """Scores are compared with plain recomputes: by the kernel that rounds least."""
    choose("numpy")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka for the session; a test that needs it fails without it, it is never skipped."""
    from cli.broker_probe import answers
    from cli.local_broker import LocalBroker

    foreign = os.environ.get("AIF_TEST_BOOTSTRAP_SERVERS")
    if foreign:
        assert answers(foreign, within_s=10.0), f"AIF_TEST_BOOTSTRAP_SERVERS: no Kafka answers at {foreign}"
        yield _ForeignBroker(foreign)
        return
    local = LocalBroker(tmp_path_factory.mktemp("kafka"), os.environ)
    try:
        local.start()
        yield local
    finally:
        local.stop()


@pytest.fixture
def deployment(broker: Broker, tmp_path: Path) -> Deployment:
    """A deployment on the session's broker that shares no topic, group or file with another test."""
    prefix = f"t{uuid.uuid4().hex[:10]}-"
    return Deployment(bootstrap_servers=broker.bootstrap_servers, prefix=prefix, partitions=2, data_dir=tmp_path)
