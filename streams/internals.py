"""What the lane relies on inside Faust and aiokafka, checked at start-up.

The lane subclasses classes that promise nothing. Their exact versions are pinned; should another one be installed,
the worker says so and refuses to start instead of losing records quietly.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.producer.sender import AddPartitionsToTxnHandler
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from schemas.errors import BadInput

__all__ = ["check"]

#: Distribution and the version that the lane was written and tested against.
_TESTED: Final[dict[str, str]] = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}

#: A method of theirs, and a piece of its source whose absence means that our override no longer fits.
_ASSUMPTIONS: Final = (
    (AIOKafkaConsumerThread._fetch_records, "fetcher.fetched_records("),
    (AIOKafkaConsumerThread._create_worker_consumer, "isolation_level=isolation_level"),
    (AIOKafkaConsumer.__init__, "self._isolation_level = isolation_level"),
    (AIOKafkaConsumer.__init__, "self._fetch_max_wait_ms = fetch_max_wait_ms"),
    (AddPartitionsToTxnHandler.handle_response, "return BACKOFF_OVERRIDE"),
    (FetchResult.getall, "self._update_position()"),
    (Consumer._filter_committable_offsets, "self._new_offset(tp)"),
    (Consumer._drain_messages, "r_offset is None or offset >= r_offset"),
    (Consumer.getmany, "to_message(tp, record)"),
    (Recovery._resume_streams, "consumer.resume_flow()"),
    (Recovery._restart_recovery, "self.signal_recovery_start"),
    (TableManager.recovery.fget, "Recovery("),
)


def check() -> None:
    """Raise BadInput naming the package where an installed version differs or an assumption fails."""
    for distribution, tested in _TESTED.items():
        if (found := version(distribution)) != tested:
            raise BadInput(
                f"{distribution} {found} is installed, the lane needs exactly {tested}: pip install -c constraints.lock"
            )
    for method, fragment in _ASSUMPTIONS:
        if fragment not in inspect.getsource(getattr(method, "fun", method)):
            raise BadInput(
                f"{method.__qualname__} is not as the lane expects: {fragment!r} is missing; "
                "reinstall the pinned versions"
            )
