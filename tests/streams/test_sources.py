"""What the broker says of topics."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from schemas.deployment import Deployment
from schemas.errors import Unavailable
from streams import sources
from streams.sources import source_topic_ids, topic_ids


class _SilentAdmin:
    """A client whose broker went away after it had connected."""

    closed = False

    def __init__(self, **options: Any) -> None:
        assert options["request_timeout_ms"] < 10_000

    def describe_topics(self, topics: list[str]) -> None:
        raise KafkaTimeoutError("no answer")

    def close(self) -> None:
        _SilentAdmin.closed = True


def test_a_broker_that_stops_answering_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the question is told as one of the connection is: Unavailable with the address, the client closed."""
    monkeypatch.setattr(sources, "KafkaAdminClient", _SilentAdmin)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 does not say.*no answer"):
        topic_ids("127.0.0.1:9", ["t"])
    with pytest.raises(Unavailable, match="does not say"):
        source_topic_ids(Deployment(bootstrap_servers="127.0.0.1:9"), ["t"])
    assert _SilentAdmin.closed
