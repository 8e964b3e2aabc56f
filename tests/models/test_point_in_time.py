"""Training rows are what serving would have known at the label's place in the log, and nothing that came later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import user_event

from domain.feature_values import feature_values
from domain.features import FEATURES
from domain.user_state import EventBatch, fold
from models import point_in_time
from models.point_in_time import export_features
from schemas.codec import codec
from schemas.errors import BadInput
from schemas.records import ACTIONS, UserEvent

T0 = 1_700_000_000_000
DAY_MS = 86_400_000
NAMES = [feature.name for feature in FEATURES]


def _write(folder: Path, events: list[UserEvent], labels: list[dict[str, int]]) -> tuple[Path, Path]:
    columns = ("event_id", "user_id", "item_id", "event_time_ms", "action", "category_id", "value")
    types = [pa.int64()] * 4 + [pa.string(), pa.int64(), pa.float64()]
    table = {name: pa.array([e[name] for e in events], type=kind) for name, kind in zip(columns, types, strict=True)}
    pq.write_table(pa.table(table), folder / "events.parquet")
    names = ("user_id", "position", "at_ms", "clicked")
    given = {name: pa.array([label.get(name, 1) for label in labels], type=pa.int64()) for name in names}
    pq.write_table(pa.table(given), folder / "labels.parquet")
    return folder / "events.parquet", folder / "labels.parquet"


def _exported(folder: Path, events: list[UserEvent], labels: list[dict[str, int]]) -> list[dict[str, Any]]:
    rows = export_features(*_write(folder, events, labels), folder, lambda *_: None)
    found = pq.read_table(folder / "features.parquet").to_pylist()
    assert len(found) == rows == len(labels)
    return found


def _by_prefix(events: list[UserEvent], labels: list[dict[str, int]]) -> list[dict[str, Any]]:
    """Every label's features from a fold of the log before it, one event at a time."""
    expected = []
    for label in labels:
        heads: dict[int, bytes] = {}
        clock = -(2**61)
        for offset, event in enumerate(events[: label["position"]]):
            folded = fold(heads, EventBatch.of([offset], [event]), 1, clock_ms=clock)
            heads, clock = heads | folded.heads, folded.clock_ms
        found = feature_values([_head(heads, label["user_id"])], np.array([label["at_ms"]]))
        row = {name: found[name].items()[0] for name in NAMES}
        expected.append({"clicked": 1, **label, **row})
    return expected


def _head(heads: dict[int, bytes], user: int) -> Any:
    """A user's row, decoded; None where there is none."""
    return codec("user_head").decode(heads[user]) if user in heads else None


drawn_events = st.lists(
    st.tuples(
        st.integers(0, 3), st.sampled_from([0, 1, 60_000, 3_600_000, 9 * DAY_MS, 800 * DAY_MS]),
        st.sampled_from([0, 0, 90_000, 2 * DAY_MS]), st.sampled_from(ACTIONS), st.none() | st.integers(0, 3),
        st.none() | st.sampled_from([0.0, 2.5]), st.integers(0, 30),
    ),
    min_size=1, max_size=30,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=drawn_events, wanted=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=25))
def test_rows_are_those_of_a_fold_of_the_log_before_each_label(tmp_path, monkeypatch, drawn, wanted) -> None:
    """Many labels of a user between two of its events, at both ends of the log, in pieces of seven events."""
    monkeypatch.setattr(point_in_time, "PIECE", 7)
    now, events = T0, []
    for user, gap, late, action, category, value, event_id in drawn:
        now += gap
        event = user_event(event_id, user, event_id % 5, now - late, action)
        events.append({**event, "category_id": category, "value": value})
    begins = min(event["event_time_ms"] for event in events[:7])
    labels = [
        {"user_id": user, "position": min(position, len(events)), "at_ms": max(begins, now - 1000 * position)}
        for user, position in sorted(wanted, key=lambda each: each[1])
    ]
    assert _exported(tmp_path, events, labels) == _by_prefix(events, labels)


def test_a_planted_leak_is_caught(tmp_path) -> None:
    """An event that is older than the label but came after it changes nothing; one position later it does."""
    events = [
        user_event(1, 7, 1, T0, "view"),
        user_event(2, 9, 1, T0 + 60_000, "view"),
        {**user_event(3, 7, 1, T0 + 1_000, "purchase"), "value": 99.0},  # late: it claims a time before the label's
        user_event(4, 9, 1, T0 + 120_000, "view"),
    ]
    label = {"user_id": 7, "position": 2, "at_ms": T0 + 60_000}
    leaking = {**label, "position": 3}
    honest, leaked = _exported(tmp_path, events, [label, leaking])
    assert (honest["spend_7d"], honest["purchase_rate_7d"], honest["since_purchase_ms"]) == (None, 0.0, None)
    assert (leaked["spend_7d"], leaked["since_purchase_ms"]) == (99.0, 59_000)
    by_time = [event for event in events if event["event_time_ms"] < label["at_ms"]]
    joined = _by_prefix(by_time, [{**label, "position": len(by_time)}])[0]
    assert joined["spend_7d"] == 99.0, "a join by event time leaks: this test can tell"
    assert honest == _by_prefix(events, [label])[0]


def test_what_cannot_be_joined_is_refused(tmp_path) -> None:
    """Positions that descend or lie behind the log, missing columns, other files: each says what and where."""
    events = [user_event(1, 7, 1, T0, "view")]
    label = {"user_id": 7, "position": 0, "at_ms": T0}
    for labels, what in (
        ([{**label, "position": 1}, label], "ascend"),
        ([{**label, "position": 2}], "behind"),
        ([{**label, "position": -1}], "negative"),
        ([label, {**label, "at_ms": T0 - 1}], "row 1 has at_ms"),
        ([label, label, {**label, "position": 1, "at_ms": T0 - 1}], "row 2 has at_ms"),
    ):
        with pytest.raises(BadInput, match=what):
            _exported(tmp_path, events, labels)
    told, asked = _write(tmp_path, events, [label])
    with pytest.raises(BadInput, match="lacks columns position, at_ms"):
        export_features(told, told, tmp_path, lambda *_: None)
    (tmp_path / "x").write_text("no parquet")
    with pytest.raises(BadInput, match="Parquet"):
        export_features(tmp_path / "x", asked, tmp_path, lambda *_: None)
