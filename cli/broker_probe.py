"""Whether a Kafka broker answers: one metadata request through the client that commands use."""

from __future__ import annotations

import time

__all__ = ["answers"]

#: One attempt's longest time: the client's own back-off grows, and a starting broker should be noticed at once.
_ATTEMPT_S = 2.0


def answers(bootstrap_servers: str, within_s: float) -> bool:
    """Whether a broker of `host:port,...` is registered and answers a metadata request before `within_s` has passed."""
    deadline = time.monotonic() + within_s
    while (left_s := deadline - time.monotonic()) > 0:
        if _answers_once(bootstrap_servers, min(left_s, _ATTEMPT_S)):
            return True
        time.sleep(0.1)
    return False


def _answers_once(bootstrap_servers: str, timeout_s: float) -> bool:
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    timeout_ms = max(1, int(timeout_s * 1000))
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap_servers.split(","),
            bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
        )
        try:
            return bool(admin.describe_cluster()["brokers"])
        finally:
            admin.close()
    except (KafkaError, OSError) as error:
        if getattr(error, "retriable", True):
            return False
        raise
