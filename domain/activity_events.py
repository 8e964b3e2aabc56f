"""Records of topic item-activity: events of one user-events batch on their way to the partition of their items.

An event's offset in user-events travels with it, so that it counts once however batches are cut when the log is read
again: a reader keeps, for each source partition, the offset below which it has everything, and leaves out what lies
there (`Intake`). Packed, an event is 21 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.partitioner import partitions_of
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_key
from schemas.records import ACTIONS, ItemActivity

__all__ = ["ACTIVITY_DTYPE", "ActivityBatch", "Intake", "check_item_activity", "packed_activity", "unpacked_activity"]

#: A packed event; `delta` is its offset in user-events less the record's first_offset.
ACTIVITY_DTYPE: Final = np.dtype([("delta", "<u4"), ("item_id", "<i8"), ("event_time_ms", "<i8"), ("action", "u1")])


@dataclass(frozen=True)
class ActivityBatch:
    """Events in log order, as columns of equal length."""

    item_id: npt.NDArray[np.int64]
    event_time_ms: npt.NDArray[np.int64]
    action: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.item_id)

    @classmethod
    def of(cls, packed: npt.NDArray[Any]) -> ActivityBatch:
        """The columns of packed events."""
        return cls(*(np.ascontiguousarray(packed[name]) for name in ("item_id", "event_time_ms", "action")))


def packed_activity(offset: npt.NDArray[np.int64], events: ActivityBatch, partitions: int) -> dict[int, bytes]:
    """Events at these ascending offsets as packed bytes by the partition of their items; deltas are to the first."""
    if not len(events):
        return {}
    packed = np.empty(len(events), dtype=ACTIVITY_DTYPE)
    packed["delta"] = offset - offset[0]
    packed["item_id"] = events.item_id
    packed["event_time_ms"] = events.event_time_ms
    packed["action"] = events.action
    target = partitions_of(events.item_id, partitions)
    order = np.argsort(target, kind="stable")
    ends = np.searchsorted(target[order], np.arange(partitions), side="right").tolist()
    raw, size = packed[order].tobytes(), ACTIVITY_DTYPE.itemsize
    starts = [0, *ends[:-1]]
    return {
        number: raw[start * size : end * size]
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        if end > start
    }


def unpacked_activity(record: ItemActivity) -> npt.NDArray[Any]:
    """The packed events of a record that `check_item_activity` accepts ([n] ACTIVITY_DTYPE)."""
    return np.frombuffer(record["events"], dtype=ACTIVITY_DTYPE)


def check_item_activity(record: ItemActivity, key: bytes | None, append_time_ms: int, deployment: Deployment) -> None:
    """Raise BadRecord where a record breaks its contract: `key_mismatch`, or `undecodable` events."""
    if key != entity_key(record["source_partition"]):
        raise BadRecord("key_mismatch", f"the key is not that of source partition {record['source_partition']}")
    size = ACTIVITY_DTYPE.itemsize
    if not record["events"] or len(record["events"]) % size:
        raise BadRecord("undecodable", f"events are {len(record['events'])} bytes, not some times {size}")
    events = unpacked_activity(record)
    delta = events["delta"].astype(np.int64)
    if (delta[1:] <= delta[:-1]).any() or delta[-1] >= record["next_offset"] - record["first_offset"]:
        raise BadRecord("undecodable", "offsets of events do not ascend within the record's range")
    latest_ms = append_time_ms + deployment.future_tolerance_ms
    if (events["event_time_ms"] < 0).any() or (events["event_time_ms"] > latest_ms).any():
        raise BadRecord("undecodable", "an event's time is negative or beyond the future tolerance")
    if (events["action"] >= len(ACTIONS)).any():
        raise BadRecord("undecodable", f"an action is none of the {len(ACTIONS)}")


class Intake:
    """Which events of records are new, given the next offset of each (source topic id, partition)."""

    def __init__(self, next_offset: Mapping[tuple[int, int], int]) -> None:
        self.next_offset = dict(next_offset)
        self.repeated = 0
        self._taken: list[npt.NDArray[Any]] = []

    def take(self, record: ItemActivity) -> npt.NDArray[Any]:
        """Take the next record of the log; those of its events that are new."""
        source = record["source_topic_id"], record["source_partition"]
        events, done = unpacked_activity(record), self.next_offset.get(source, 0)
        # Offsets ascend: what is known is a head of the record.
        known = int(np.searchsorted(events["delta"].astype(np.int64), done - record["first_offset"]))
        self.repeated += known
        self.next_offset[source] = max(done, record["next_offset"])
        self._taken.append(events[known:])
        return events[known:]

    def events(self) -> ActivityBatch:
        """All new events so far, in log order."""
        return ActivityBatch.of(np.concatenate([np.zeros(0, dtype=ACTIVITY_DTYPE), *self._taken]))
