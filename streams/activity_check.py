"""Do the events of topic item-activity equal those that user-events has and the user lane must accept?

An accepted event must be in the partition of its item exactly once, by its offset, with its time and action. Records
repeat events after a recompute of table users; as for the activity lane, what lies below the offset that a source has
reached in a partition of item-activity is a repetition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from aiokafka import TopicPartition

from domain.activity_events import check_item_activity, unpacked_activity
from domain.partitioner import partitions_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from streams.log_reader import LogReader
from streams.oracle import BY_SETTINGS
from streams.partition_check import Recomputed
from streams.verification_report import Report

__all__ = ["check_activity"]

#: offset, item, event time, action: [n, 4] int64
_Events = npt.NDArray[np.int64]


async def check_activity(reader: LogReader, deployment: Deployment, users: Mapping[int, Recomputed]) -> Report:
    """Compare topic item-activity with the accepted events of each user-events partition below its cut.

    Call after the cuts were read: what the transactions behind them sent is in the log by then, or held back by
    markers that are on their way.
    """
    report = Report()
    accepted = {partition: _accepted(found) for partition, found in users.items()}
    for target in range(deployment.partitions):
        sent, whole = await _sent(reader, deployment, target, users)
        for partition, found in users.items():
            events = accepted[partition]
            expected = events[partitions_of(events[:, 1], deployment.partitions) == target]
            first = found.start if whole else _first_known(sent[partition], found)
            where = f"item-activity-{target} of user-events-{partition}"
            _compare(where, _between(expected, first, found.cut), _between(sent[partition], first, found.cut), report)
    return report


def _accepted(found: Recomputed) -> _Events:
    return np.array(found.oracle.accepted, dtype=np.int64).reshape(-1, 4)


async def _sent(
    reader: LogReader, deployment: Deployment, target: int, users: Mapping[int, Recomputed]
) -> tuple[dict[int, _Events], bool]:
    """Events in a partition of item-activity by source partition, without repetitions; and whether its log is whole."""
    tp = TopicPartition(deployment.topic("item-activity"), target)
    bounds = await reader.bounds(tp)
    end = await reader.settled(tp, bounds.written)
    parts: dict[int, list[_Events]] = {partition: [np.zeros((0, 4), dtype=np.int64)] for partition in users}
    reached = dict.fromkeys(users, 0)
    async for record in reader.records(tp, bounds.start, end):
        try:
            activity: Any = codec("item_activity").decode(record.value)
            check_item_activity(activity, record.key, record.timestamp, deployment)
        except BadRecord as error:
            if error.reason not in BY_SETTINGS:
                continue  # it has a dead letter; what the user lane sent is missed below
        source = activity["source_partition"]
        if source in users and users[source].topic_id == activity["source_topic_id"]:
            packed = unpacked_activity(activity)
            offsets = packed["delta"].astype(np.int64) + activity["first_offset"]
            columns = offsets, packed["item_id"], packed["event_time_ms"], packed["action"].astype(np.int64)
            parts[source].append(np.stack(columns, axis=1)[offsets >= reached[source]])
            reached[source] = max(reached[source], activity["next_offset"])
    return {partition: np.concatenate(some) for partition, some in parts.items()}, bounds.start == 0


def _first_known(sent: _Events, found: Recomputed) -> int:
    """Of a log whose start is deleted, the offset from which it has all events of a source."""
    return max(found.start, int(sent[0, 0])) if len(sent) else found.cut


def _between(events: _Events, first: int, cut: int) -> _Events:
    return events[(events[:, 0] >= first) & (events[:, 0] < cut)]


def _compare(where: str, expected: _Events, sent: _Events, report: Report) -> None:
    if np.array_equal(expected, sent):
        return
    wanted, found = set(map(tuple, expected.tolist())), set(map(tuple, sent.tolist()))
    for event in sorted(wanted - found):
        report.differs(where, f"event {_shown(event)} is missing")
    for event in sorted(found - wanted):
        report.differs(where, f"event {_shown(event)} was not accepted")
    if wanted == found:
        report.differs(where, "events are repeated or out of order")


def _shown(event: tuple[int, ...]) -> str:
    offset, item, time_ms, action = event
    return f"at offset {offset} (item {item}, {time_ms} ms, action {action})"
