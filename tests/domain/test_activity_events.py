"""Records of topic item-activity: packing by partition, validity, and events that come again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.activity_events import (
    ACTIVITY_DTYPE,
    ActivityBatch,
    Intake,
    check_item_activity,
    packed_activity,
    unpacked_activity,
)
from domain.partitioner import partition_of
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_key

NOW_MS = 1_600_000_000_000
_EVENTS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(-(2**63), 2**63 - 1), st.integers(0, NOW_MS), st.integers(0, 13)),
    max_size=30,
)


def _columns(events: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, ActivityBatch]:
    """Offsets that ascend by the first numbers, and the events' columns."""
    steps, items, times, actions = zip(*events, strict=True) if events else ((), (), (), ())
    return np.cumsum(np.array(steps, "i8")), ActivityBatch(
        np.array(items, "i8"), np.array(times, "i8"), np.array(actions, "u1")
    )


@given(_EVENTS, st.integers(1, 5))
def test_every_event_goes_to_the_partition_of_its_item(events: list[Any], partitions: int) -> None:
    """All events are packed once, in log order within the partition of their item, at their own offsets."""
    offsets, batch = _columns(events)
    expected: dict[int, list[Any]] = {}
    for offset, (_, item, time_ms, action) in zip(offsets.tolist(), events, strict=True):
        expected.setdefault(partition_of(item, partitions), []).append((offset - offsets[0], item, time_ms, action))
    found = packed_activity(offsets, batch, partitions)
    assert {at: np.frombuffer(raw, ACTIVITY_DTYPE).tolist() for at, raw in found.items()} == expected


def _record(offsets: np.ndarray, batch: ActivityBatch, **changes: Any) -> Any:
    [raw] = packed_activity(offsets, batch, 1).values()
    first = int(offsets[0])
    return {"source_topic_id": 1, "source_partition": 3, "first_offset": first, "next_offset": int(offsets[-1]) + 1,
            "events": raw, **changes}  # fmt: skip


@given(_EVENTS.filter(bool), st.lists(st.lists(st.integers(0, 30), max_size=5), min_size=1, max_size=4))
def test_events_count_once_however_batches_are_cut_again(events: list[Any], cuts: list[list[int]]) -> None:
    """The log read over and over, cut otherwise each time, gives each event once, in the order of the first time."""
    offsets, batch = _columns(events)
    intake = Intake({})
    for reading in cuts:
        edges = sorted({0, *(min(cut, len(events)) for cut in reading), len(events)})
        for start, end in itertools.pairwise(edges):
            part = ActivityBatch(batch.item_id[start:end], batch.event_time_ms[start:end], batch.action[start:end])
            intake.take(_record(offsets[start:end], part))
    found = intake.events()
    assert found.item_id.tolist() == batch.item_id.tolist() and found.action.tolist() == batch.action.tolist()
    assert intake.repeated == (len(cuts) - 1) * len(events)
    assert intake.next_offset == {(1, 3): int(offsets[-1]) + 1}


def test_sources_are_apart() -> None:
    """What one partition, or another topic of the name, has reached says nothing of the others."""
    offsets, batch = _columns([(1, 5, NOW_MS, 0), (1, 5, NOW_MS, 1)])
    intake = Intake({(1, 3): 2})
    taken = [
        intake.take(_record(offsets, batch, **change))["action"].tolist()
        for change in ({}, {"source_partition": 4}, {"source_topic_id": 2})
    ]
    assert taken == [[1], [0, 1], [0, 1]] and intake.repeated == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source_partition": 4}, "key_mismatch"),
        ({"events": b""}, "undecodable"),
        ({"events": b"123"}, "undecodable"),
        ({"next_offset": 2}, "undecodable"),
    ],
)
def test_records_out_of_their_contract_are_refused(changes: dict[str, Any], reason: str) -> None:
    """A foreign key, events that are none, and offsets beyond the record's range are bad records."""
    offsets, batch = _columns([(1, 5, NOW_MS, 0), (1, 5, NOW_MS, 13)])
    good = _record(offsets, batch)
    check_item_activity(good, entity_key(3), NOW_MS, Deployment())
    with pytest.raises(BadRecord) as refused:
        check_item_activity({**good, **changes}, entity_key(3), NOW_MS, Deployment())
    assert refused.value.reason == reason


@pytest.mark.parametrize("event", [(1, 5, -1, 0), (1, 5, NOW_MS + 10**9, 0), (1, 5, NOW_MS, 14)])
def test_events_out_of_range_are_refused(event: tuple[int, int, int, int]) -> None:
    """A time before 1970 or beyond the tolerance, or a number that is no action, makes the record bad."""
    record = _record(*_columns([event]))
    with pytest.raises(BadRecord, match="undecodable"):
        check_item_activity(record, entity_key(3), NOW_MS, Deployment())


def test_offsets_must_ascend() -> None:
    """Events out of the order of their offsets make the record bad: what is known of a record is a head of it."""
    offsets, batch = _columns([(1, 5, NOW_MS, 0), (1, 6, NOW_MS, 0)])
    record = _record(offsets, batch)
    turned = unpacked_activity(record)[::-1].tobytes()
    with pytest.raises(BadRecord, match="ascend"):
        check_item_activity({**record, "events": turned}, entity_key(3), NOW_MS, Deployment())
