"""The fold of item activity against the plain oracle: every prefix, any cut into batches, late and early events."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.activity_events import ActivityBatch
from domain.activity_row import ACTIVITY_FEATURES, ACTIVITY_WINDOWS, NO_SNAPSHOT, Snapshots
from domain.item_activity import ActivityFolded, fold
from domain.windows import LONGEST_MS
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from schemas.records import ACTIONS
from streams.activity_oracle import ActivityOracle

NOW_MS = 1_600_000_000_000
HOUR_MS = 3_600_000

Event = tuple[int, int, int]  # item, time, action

#: Times in steps that meet tile edges, far into the past and a little into the future.
_TIMES = st.one_of(
    st.integers(-30, 30).map(lambda step: NOW_MS + step * HOUR_MS // 6),
    st.integers(-16, 4).map(lambda day: NOW_MS + day * 24 * HOUR_MS),
    st.sampled_from([NOW_MS - LONGEST_MS, NOW_MS - LONGEST_MS - 1, NOW_MS, NOW_MS + 1]),
)
_EVENTS = st.lists(st.tuples(st.integers(1, 3), _TIMES, st.integers(0, len(ACTIONS) - 1)), max_size=40)
_CUTS = st.lists(st.integers(0, 40), max_size=6)
_INTERVALS = st.sampled_from([0, 1, 600, 86_400])


def batch(events: list[Event]) -> ActivityBatch:
    """The columns of some events."""
    items, times, actions = zip(*events, strict=True) if events else ((), (), ())
    return ActivityBatch(np.array(items, "i8"), np.array(times, "i8"), np.array(actions, "u1"))


def folded_in(events: list[Event], cuts: list[int], interval_ms: int) -> tuple[dict[int, Any], list[ActivityFolded]]:
    """The rows after a log that was cut into batches, and what each did."""
    rows: dict[int, Any] = {}
    done = []
    edges = sorted({0, *(min(cut, len(events)) for cut in cuts), len(events)})
    for start, end in itertools.pairwise(edges):
        done.append(fold(rows, batch(events[start:end]), interval_ms))
        rows |= done[-1].rows
    return rows, done


@given(_EVENTS, _CUTS, _INTERVALS)
@settings(deadline=None, max_examples=150)
def test_rows_equal_the_oracle_on_every_prefix(events: list[Event], cuts: list[int], interval_s: int) -> None:
    """However a log is cut into batches, at every cut the rows are those of one event at a time."""
    deployment = Deployment(reembed_interval_s=interval_s)
    oracle, rows, late = ActivityOracle(deployment, 1), {}, 0
    edges = sorted({0, *(min(cut, len(events)) for cut in cuts), len(events)})
    for start, end in itertools.pairwise(edges):
        for event in events[start:end]:
            oracle.take(*event)
        done = fold(rows, batch(events[start:end]), deployment.reembed_interval_ms)
        rows |= done.rows
        late += done.late
        assert [what for item in oracle.items if (what := oracle.difference(item, rows.get(item)))] == []
        assert rows.keys() == oracle.items.keys()
    counted = sum(sum(state.counts.values()) for state in oracle.items.values())
    assert late <= len(events) and counted <= len(ACTIVITY_WINDOWS) * (len(events) - late)


@given(_EVENTS, _CUTS, _INTERVALS)
@settings(deadline=None, max_examples=100)
def test_snapshots_are_of_the_log_and_not_of_its_cut(events: list[Event], cuts: list[int], interval_s: int) -> None:
    """The same snapshots are taken at the same events however batches are cut, an interval apart for each item."""
    interval_ms = Deployment(reembed_interval_s=interval_s).reembed_interval_ms
    _, whole = folded_in(events, [], interval_ms)
    _, parts = folded_in(events, cuts, interval_ms)

    def taken(done: list[ActivityFolded]) -> set[tuple[int, int, bytes]]:
        return {
            (item, made_ms, features.tobytes())
            for each, source in done
            for item, made_ms, features in zip(
                source[each.made_by].tolist(), each.snapshots.made_ms.tolist(), each.snapshots.features, strict=True
            )
        }  # fmt: skip

    def with_items(done: list[ActivityFolded], edges: list[int]) -> list[Any]:
        items = np.array([event[0] for event in events], dtype=np.int64)
        return [(each, items[start:]) for each, start in zip(done, edges, strict=False)]

    edges = sorted({0, *(min(cut, len(events)) for cut in cuts), len(events)})
    found = taken(with_items(parts, edges))
    assert found == taken(with_items(whole, [0]))
    for item in {event[0] for event in events}:
        times = sorted(made_ms for of, made_ms, _ in found if of == item)
        assert all(after - before >= interval_ms for before, after in itertools.pairwise(times))


def test_a_hot_item_is_one_row_of_bounded_size() -> None:
    """A hundred thousand events over months and all actions leave one row within the bound that the module names."""
    times = NOW_MS + np.arange(100_000) * 60_000
    events = ActivityBatch(np.full(100_000, 7), times, (np.arange(100_000) % len(ACTIONS)).astype("u1"))
    done = fold({}, events, 600_000)
    [row] = done.rows.values()
    assert len(row["tiles"]) + len(row["snapshot"]) <= 2_100 and done.late == 0
    assert len(done.snapshots) == 10_000
    day = np.expm1(Snapshots.of([row]).features.reshape(len(ACTIVITY_WINDOWS), -1)).sum(axis=1)
    assert 60 <= day[0] <= 70 and 1_440 <= day[1] <= 1_680 and 10_080 <= day[2] <= 11_520


def test_nothing_is_folded_from_nothing_and_foreign_rows_are_refused() -> None:
    """An empty batch changes nothing; a row of another layout raises Corrupt."""
    none = fold({}, batch([]), 1)
    assert (none.rows, none.late, len(none.snapshots)) == ({}, 0, 0)
    rows, _ = folded_in([(1, NOW_MS, 0)], [], 1)
    with pytest.raises(Corrupt, match="fingerprint"):
        fold({1: {**rows[1], "fingerprint": 0}}, batch([(1, NOW_MS, 0)]), 1)


def test_snapshots_of_rows_are_theirs_or_nothing() -> None:
    """An item without a row has zeros and no snapshot's time."""
    rows, _ = folded_in([(1, NOW_MS, 2), (1, NOW_MS, 2)], [], 1)
    found = Snapshots.of([None, rows[1]])
    assert found.made_ms.tolist() == [NO_SNAPSHOT, NOW_MS]
    assert found.features.shape == (2, ACTIVITY_FEATURES) and not found.features[0].any()
    # The second event is at the same time as the first one's snapshot, and an interval is at least 1 ms.
    assert found.features[1].reshape(3, -1)[:, 2].tolist() == pytest.approx([np.log(2)] * 3)
