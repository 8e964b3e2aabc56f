from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, UnknownError

from producers.connection import admin_client, close_producer, consumer_client, producer_client
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


class _Stuck:
    """A producer whose flush fails until its thread is made to stop."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error
        self._sender = self
        self.closed = False

    def close(self, timeout: float) -> None:
        if self._error is not None:
            raise self._error
        self.closed = True

    def force_close(self) -> None:
        self._error = None

    def join(self, timeout: float) -> None:
        assert self._error is None, "joined before it was told to stop"


@pytest.mark.parametrize("error", [KafkaTimeoutError("out of time"), UnknownError("Future not done")])
def test_a_producer_ends_whatever_its_flush_says(error: Exception) -> None:
    """Both ways in which kafka-python's flush fails leave a closed producer, and hide no error raised before."""
    producer = _Stuck(error)
    close_producer(producer)
    assert producer.closed
