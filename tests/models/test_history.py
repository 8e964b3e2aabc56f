from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import user_event

from domain.user_features import UserInputs, user_inputs
from domain.user_row import behaviours_of
from domain.user_state import EventBatch, fold
from models.config import ModelConfig
from models.history import History
from models.log import Log
from schemas.codec import codec
from schemas.records import ACTIONS, UserEvent

_CONFIG = ModelConfig(behaviours=5, long_behaviours=9)
_GAPS_MS = st.sampled_from([0, 1, 59_000, 300_000, 3_600_000, 5 * 3_600_000, 86_400_000, 9 * 86_400_000])
_events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(-1, 3), _GAPS_MS, st.sampled_from(ACTIONS), st.integers(0, 30)),
    min_size=1, max_size=45,
)  # fmt: skip


def _records(drawn: list[tuple[int, int, int, str, int]]) -> list[UserEvent]:
    now, records = 1_700_000_000_123, []
    for user, item, gap, action, event_id in drawn:
        now += gap
        records.append(user_event(event_id, user, item, now, action))  # type: ignore[arg-type]
    return records


def _served(records: list[UserEvent], lag_ms: int = 0) -> list[UserInputs]:
    """What serving gives just before each event that is no duplicate, folding one event at a time.

    Heads become known `lag_ms` after the event that made them.
    """
    heads: dict[int, list[tuple[int, Any]]] = {}
    rows: dict[int, bytes] = {}
    inputs = []
    for offset, record in enumerate(records):
        folded = fold(rows, EventBatch.of([offset], [record]), topic_id=1)
        if not folded.duplicates:
            at_ms = np.array([record["event_time_ms"]])
            known = [head for made, head in heads.get(record["user_id"], []) if made <= at_ms - lag_ms]
            head = known[-1] if known else None
            inputs.append(user_inputs([head], [behaviours_of(head)[::-1]], at_ms, _CONFIG.dimensions))
        rows |= folded.heads
        for user, row in folded.heads.items():
            heads.setdefault(user, []).append((record["event_time_ms"], codec("user_head").decode(row)))
    return inputs


@settings(max_examples=60, deadline=None)
@given(_events, st.sampled_from([0, 0, 1, 300_000, 7_200_000, 8 * 86_400_000]))
def test_training_sees_what_serving_would_have_given(drawn: list[tuple[int, int, int, str, int]], lag_ms: int) -> None:
    """User inputs of every event from the log at once equal, bit for bit, those of the fold just before that event, or
    of the fold as it was known under a lag."""
    records = _records(drawn)
    log = Log.of([("user", record) for record in records], _CONFIG)
    expected = _served(records, lag_ms)
    found = History(log.events, lag_ms).before(np.arange(len(log.events)), _CONFIG.dimensions)
    assert len(found) == len(expected)
    for name in vars(found):
        width = getattr(found, name).shape[1]  # as many places as the one that needs most of them
        columns = [getattr(each, name) for each in expected]
        column = np.concatenate([np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in columns])
        np.testing.assert_array_equal(getattr(found, name), column, err_msg=name)
        assert getattr(found, name).dtype == column.dtype
