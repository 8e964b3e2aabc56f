from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from producers.connection import admin_client, consumer_client, producer_client
from schemas.deployment import Deployment
from schemas.errors import Unavailable


def _enter(open_client: Callable[[Deployment], Any]) -> Callable[[Deployment], None]:
    def enter(deployment: Deployment) -> None:
        with open_client(deployment):
            pytest.fail("nothing listens there")

    return enter


def test_no_broker_is_one_sentence_within_ten_seconds() -> None:
    """Where nothing listens, or the name is none, every client gives up in time with the address and what to do."""
    with socket.socket() as reserved, ThreadPoolExecutor() as pool:
        reserved.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{reserved.getsockname()[1]}"
        started_s = time.monotonic()
        tries = [
            (servers, pool.submit(opened, Deployment(bootstrap_servers=servers)))
            for servers in (servers, "no-such-host.invalid:9092")
            for opened in (_enter(admin_client), _enter(consumer_client), producer_client)
        ]
        for address, tried in tries:
            with pytest.raises(Unavailable, match=rf"{address}.*aif broker start"):
                tried.result()
        assert time.monotonic() - started_s < 10
