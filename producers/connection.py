"""Opening Kafka clients so that a broker that does not answer is one sentence within ten seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from schemas.deployment import Deployment
from schemas.errors import Unavailable

__all__ = ["admin_client", "close_producer", "consumer_client", "producer_client", "unavailable"]

#: How long to try for a first answer.
_CONNECT_MS: Final = 6_000
_REQUEST_MS: Final = 10_000


def unavailable(deployment: Deployment, error: object) -> Unavailable:
    """The error that names the broker's address and what to do."""
    return Unavailable(
        f"no usable Kafka broker at {deployment.bootstrap_servers} ({error}): start one with `aif broker start` or "
        "`docker compose -f docker-compose.kafka.yml up -d`, or name yours with --bootstrap-servers"
    )


@contextmanager
def admin_client(deployment: Deployment) -> Iterator[Any]:
    """A KafkaAdminClient, closed at the end. Raises Unavailable, also for Kafka errors inside the block."""
    try:
        admin = KafkaAdminClient(**_common(deployment), request_timeout_ms=_REQUEST_MS)
    except (KafkaError, OSError, ValueError) as error:
        raise unavailable(deployment, error) from error
    try:
        yield admin
    except KafkaError as error:
        raise unavailable(deployment, error) from error
    finally:
        admin.close()


@contextmanager
def consumer_client(deployment: Deployment) -> Iterator[Any]:
    """A KafkaConsumer without a group that reads committed records, closed at the end. Raises Unavailable."""
    try:
        consumer = KafkaConsumer(
            **_common(deployment), group_id=None, enable_auto_commit=False, isolation_level="read_committed"
        )
    except (KafkaError, OSError, ValueError) as error:
        raise unavailable(deployment, error) from error
    try:
        yield consumer
    except KafkaError as error:
        raise unavailable(deployment, error) from error
    finally:
        consumer.close()


def producer_client(deployment: Deployment, *, give_up_after_s: float = 30.0) -> Any:
    """A KafkaProducer whose resends the broker recognises (idempotent), so that no error inside it doubles a record.

    It retries a record for `give_up_after_s`. Its buffer is unbounded: the caller bounds what is in flight. Raises
    Unavailable.
    """
    try:
        return KafkaProducer(
            **_common(deployment),
            enable_idempotence=True,
            acks="all",
            compression_type="zstd",
            linger_ms=20,
            batch_size=256 * 1024,
            request_timeout_ms=min(_REQUEST_MS, int(give_up_after_s * 500)),
            delivery_timeout_ms=int(give_up_after_s * 1000),
            max_block_ms=_REQUEST_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    except (KafkaError, OSError, ValueError) as error:
        raise unavailable(deployment, error) from error


def close_producer(producer: Any) -> None:
    """End a producer. What is not acknowledged by now is given up: who cares for it has waited already."""
    try:
        producer.close(timeout=1)
    except KafkaError:
        # kafka-python 3.0.12 flushes first and, when that fails (out of time, or a batch that was split meanwhile),
        # leaves its thread running. Made to stop, the thread drops what is unsent, and then closing succeeds.
        producer._sender.force_close()
        producer._sender.join(1)
        producer.close(timeout=1)


def _common(deployment: Deployment) -> dict[str, Any]:
    return {"bootstrap_servers": deployment.bootstrap_servers.split(","), "bootstrap_timeout_ms": _CONNECT_MS}
