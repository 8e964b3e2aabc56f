from __future__ import annotations

import socket
import time
from collections.abc import Callable
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


@pytest.mark.parametrize("opened", [_enter(admin_client), _enter(consumer_client), producer_client])
def test_no_broker_is_one_sentence_within_ten_seconds(opened: Callable[[Deployment], None]) -> None:
    """Where nothing listens, every client gives up in time and says the address and what to do."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match=rf"{address}.*aif broker start"):
            opened(Deployment(bootstrap_servers=address))
        assert time.monotonic() - started_s < 10


def test_a_wrong_address_is_unavailable_too() -> None:
    """A name that cannot be an address is reported the same way."""
    with pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
        producer_client(Deployment(bootstrap_servers="no-such-host.invalid:9092"))
