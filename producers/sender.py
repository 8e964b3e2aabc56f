"""Sends records to the entity's partition, a bounded number in flight, and knows which are acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from kafka.errors import KafkaError

from domain.partitioner import partitions_of
from producers.connection import close_producer, producer_client, unavailable
from producers.datasets import Entry
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import entity_keys

__all__ = ["ITEMS", "USERS", "Sender"]

ITEMS: Final = "item-updates"
USERS: Final = "user-events"

#: Batches of entries sent but not acknowledged: enough to overlap the broker's work with ours.
_BATCHES_IN_FLIGHT: Final = 4


class Sender:
    """Sends batches of entries in order; `items` and `events` count what is acknowledged, without a gap.

    `offsets` holds the last acknowledged offset by (topic without prefix, partition).
    """

    def __init__(self, deployment: Deployment, *, give_up_after_s: float = 30.0) -> None:
        self.items = 0
        self.events = 0
        self.offsets: dict[tuple[str, int], int] = {}
        self._deployment = deployment
        self._partitions = deployment.partitions
        self._topics = {"item": (deployment.topic(ITEMS), ITEMS), "user": (deployment.topic(USERS), USERS)}
        self._encode = {"item": codec("item_update").encode, "user": codec("user_event").encode}
        self._in_flight: deque[list[tuple[str, Any]]] = deque()
        self._producer = producer_client(deployment, give_up_after_s=give_up_after_s)

    def send(self, entries: Sequence[Entry]) -> None:
        """Hand a batch to the producer; waits for the oldest one where too many are in flight.

        Raises Unavailable where the broker does not take records, BadInput on a record that Avro or Kafka refuses.
        """
        while len(self._in_flight) >= _BATCHES_IN_FLIGHT:
            self._settle_oldest()
        entities = [entry[1]["item_id"] if entry[0] == "item" else entry[1]["user_id"] for entry in entries]
        ids = np.array(entities, dtype=np.int64)
        keys, partitions = entity_keys(ids), partitions_of(ids, self._partitions).tolist()
        sent: list[tuple[str, Any]] = []
        self._in_flight.append(sent)
        try:
            for (kind, record), key, partition in zip(entries, keys, partitions, strict=True):
                name, short = self._topics[kind]
                value = self._encode[kind](record)
                sent.append((short, self._producer.send(name, value=value, key=key, partition=partition)))
        except KafkaError as error:
            raise unavailable(self._deployment, error) from error
        except (ValueError, TypeError) as error:
            raise BadInput(f"a mapped record does not fit its contract ({error}): correct the mapping") from error

    def flush(self) -> None:
        """Wait until all that was sent is acknowledged. Raises Unavailable."""
        while self._in_flight:
            self._settle_oldest()

    def close(self) -> None:
        """Give up what is not acknowledged, and end the producer's thread."""
        close_producer(self._producer)

    def _settle_oldest(self) -> None:
        # Taken off the queue only when all of it is in: an error leaves the count at what is certain.
        batch = self._in_flight[0]
        for short, future in batch:
            try:
                # The producer ends the wait: each record is acknowledged or given up in time.
                metadata = future.get()
            except KafkaError as error:
                raise unavailable(self._deployment, error) from error
            self.offsets[short, metadata.partition] = metadata.offset
        self._in_flight.popleft()
        items = sum(1 for short, _ in batch if short == ITEMS)
        self.items += items
        self.events += len(batch) - items
