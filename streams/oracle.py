"""What table items must hold, recomputed from the log one record at a time (users: user_oracle.py).

Whether a record counts is the log's own verdict: a letter and the watermark behind its record are one transaction, so
a record below the watermark was refused exactly where it has one, whatever today's settings say of it. Today's checks
decide only what no setting can change: a record that is no record, or breaks its contract under all of them, must have
a letter. One without, that only settings of today refuse, was accepted under others; it is applied, and the rows of
the table must say so.

The slow, plain counterpart of the folds, for `aif verify` and the tests: dictionaries and lists, no arrays, no batches,
no state carried over. It shares with the folds only the contracts (record types, validity, window declarations and
packed formats) and says in the plainest way what the design promises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import numpy as np

from domain.lsh import hyperplanes
from domain.validation import check_item_update
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.records import ItemRow
from streams.fold import SourceRecord

__all__ = ["ItemsOracle", "Oracle", "signature_differs"]

#: A projection closer to its hyperplane than this may fall on either side: sums differ in their last bits.
_ON_THE_PLANE: Final = 1e-9


#: Reasons of BadRecord that hang on a setting: the tolerance for event times, the length of embeddings.
_BY_SETTINGS: Final = ("far_future", "vector_length")


class Oracle(ABC):
    """Which records of a source partition count; what they come to is a subclass's."""

    schema: str

    def __init__(self, deployment: Deployment, topic_id: int) -> None:
        self._deployment, self._topic_id = deployment, topic_id
        #: Offsets of records that were not applied, and of those among them that today's settings would accept.
        self.refused: set[int] = set()
        self.acceptable_now: set[int] = set()
        #: Offsets of records that were applied and that today's settings would refuse.
        self.refused_now: set[int] = set()

    def apply(self, record: SourceRecord, *, has_letter: bool = False) -> None:
        """Take the next record of the log."""
        try:
            decoded = codec(self.schema).decode(record.value)
            self.check(decoded, record)
        except BadRecord as error:
            if has_letter or error.reason not in _BY_SETTINGS:
                self.refused.add(record.offset)
                return
            self.refused_now.add(record.offset)
        else:
            if has_letter:
                self.refused.add(record.offset)
                self.acceptable_now.add(record.offset)
                return
        self.accept(record.offset, decoded)

    @abstractmethod
    def check(self, decoded: Any, record: SourceRecord) -> None:
        """Raise BadRecord where a record breaks its contract."""

    @abstractmethod
    def accept(self, offset: int, decoded: Any) -> None:
        """Apply a record that counts."""


class ItemsOracle(Oracle):
    """Table items after a log: newest (event time, offset) per item."""

    schema = "item_update"

    def __init__(self, deployment: Deployment, topic_id: int) -> None:
        super().__init__(deployment, topic_id)
        self.newest: dict[int, tuple[int, dict[str, Any]]] = {}

    def check(self, decoded: Any, record: SourceRecord) -> None:
        """See Oracle."""
        check_item_update(decoded, record.key, record.timestamp, self._deployment)

    def accept(self, offset: int, decoded: Any) -> None:
        """See Oracle."""
        before, held = self.newest.get(decoded["item_id"], (-1, None))
        if held is None or (decoded["event_time_ms"], offset) > (held["event_time_ms"], before):
            self.newest[decoded["item_id"]] = (offset, decoded)

    def difference(self, item: int, row: ItemRow | None) -> str:
        """What is wrong with a row of table items; empty where it is right."""
        if item not in self.newest:
            return "" if row is None else "the log has no such item"
        if row is None:
            return "missing"
        offset, update = self.newest[item]
        expected = {
            name: update[name]
            for name in ("item_id", "event_time_ms", "original_id", "title", "category_id", "price", "published_ms")
        } | {
            "embedding": update["embedding"],
            "numeric": update["numeric"],
            "source_offset": offset,
            "source_topic_id": self._topic_id,
            "deleted": update["op"] == "delete",
            "signature_version": self._deployment.signature_version,
        }
        for name, value in expected.items():
            if row[name] != value:  # type: ignore[literal-required]
                return f"{name} is {row[name]!r}, expected {value!r}"  # type: ignore[literal-required]
        return signature_differs(row["embedding"], row["signature"], self._deployment)


def signature_differs(embedding: bytes | None, signature: bytes | None, deployment: Deployment) -> str:
    """What is wrong with a signature; empty where it is right."""
    if embedding is None or signature is None:
        return "" if embedding is signature is None else f"signature is {signature!r} for embedding {embedding!r}"
    planes = hyperplanes(deployment.signature_seed, deployment.signature_bits, deployment.embedding_dim)
    values = np.frombuffer(embedding, dtype="<f4").astype(np.float64)
    for bit, plane in enumerate(planes.astype(np.float64)):
        projection = sum(float(a) * float(b) for a, b in zip(plane, values, strict=True))
        found = signature[bit // 8] >> (7 - bit % 8) & 1
        if found != (projection >= 0) and abs(projection) > _ON_THE_PLANE:
            return f"signature bit {bit} is {found}, the projection {projection:g}"
    return ""
