"""What training sees of items' activity, against the serving fold."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import user_event

from domain.activity_events import ActivityBatch
from domain.activity_row import Snapshots
from domain.item_activity import fold
from models import item_history
from models.config import ModelConfig
from models.item_history import ItemHistory
from models.log import Log
from schemas.records import ACTIONS

_GAPS_MS = st.sampled_from([0, 1, 599_999, 600_000, 3_600_000, 5 * 3_600_000, 9 * 86_400_000])
_events = st.lists(st.tuples(st.integers(-1, 3), _GAPS_MS, st.sampled_from(ACTIONS)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(_events, st.sampled_from([1, 600_000]), st.sampled_from([1, 7, 20_000]))
def test_training_sees_what_the_tower_would_have_been_given(drawn: list[Any], interval_ms: int, piece: int) -> None:
    """At every position and for every item, also one without events, it is the fold's last snapshot from before it."""
    now, records = 1_700_000_000_123, []
    for place, (item, gap, action) in enumerate(drawn):
        now += gap
        records.append(user_event(place, place % 5, item, now, action))
    events = Log.of([("user", record) for record in records], ModelConfig()).events
    before, item_history._PIECE = item_history._PIECE, piece
    try:
        history = ItemHistory(events, interval_ms)
    finally:
        item_history._PIECE = before
    items = np.arange(-2, 6)
    rows: dict[int, Any] = {}
    for position in range(len(events) + 1):
        expected = Snapshots.of([rows.get(item) for item in items.tolist()]).features
        found = history.features[history.before(items, np.int64(position))]
        np.testing.assert_array_equal(found, expected)
        here = slice(position, position + 1)
        batch = ActivityBatch(events.item_id[here], events.time_ms[here], events.action[here])
        rows |= fold(rows, batch, interval_ms).rows


def test_shapes_broadcast() -> None:
    """Items [B, C] with positions [B, 1] give [B, C]."""
    records = [("user", user_event(n, 1, n % 2, 1_700_000_000_000 + n, "click")) for n in range(4)]
    history = ItemHistory(Log.of(records, ModelConfig()).events, 1)
    found = history.before(np.array([[0, 1, 7], [0, 1, 7]]), np.array([[1], [4]]))
    assert found.shape == (2, 3)
    assert history.features[found].any(axis=-1).tolist() == [[True, False, False], [True, True, False]]
