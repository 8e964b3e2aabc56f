from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import item_update, user_event

from models.config import ModelConfig
from models.log import Log
from schemas.errors import BadInput

_CONFIG = ModelConfig(embedding_dim=2)


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 20)), max_size=25),
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-5, 30)), min_size=1, max_size=10),
)
def test_rows_at_finds_the_newest_state_by_then(updates: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> None:
    """The row of an item at a time is its last update, in log order, of the newest time up to then; else none."""
    catalogue = Log.of(
        [("item", item_update(item, at, price=place)) for place, (item, at) in enumerate(updates)], _CONFIG
    ).catalogue
    items, times = (np.array(column, dtype=np.int64) for column in zip(*wanted, strict=True))
    for row, (item, at) in zip(catalogue.rows_at(items, times).tolist(), wanted, strict=True):
        known = [(when, place) for place, (each, when) in enumerate(updates) if each == item and when <= at]
        if not known:
            assert row == -1
            continue
        price = np.expm1(catalogue.inputs.numeric[row, 0].astype(float))
        assert round(price) == max(known)[1]


def test_events_must_ascend_in_time() -> None:
    """A log that steps back in time is refused, with the event that does it."""
    entries = [("user", user_event(1, 1, 1, 500)), ("user", user_event(2, 1, 1, 499))]
    with pytest.raises(BadInput, match="event 1 is older"):
        Log.of(entries, _CONFIG)


def test_repeated_event_ids_count_once() -> None:
    """An event id that a user just sent is left out, as the fold leaves it out; another user's equal id stays."""
    entries = [("user", user_event(event, user, 1, at)) for at, (event, user) in enumerate([(7, 1), (7, 1), (7, 2)])]
    assert Log.of(entries, _CONFIG).events.user_id.tolist() == [1, 2]


def test_an_empty_log_is_empty() -> None:
    """No entries give a log without events and items, in which nothing is found."""
    log = Log.of([], _CONFIG)
    assert (len(log.events), len(log.catalogue)) == (0, 0)
    assert log.catalogue.rows_at(np.array([1]), np.array([1])).tolist() == [-1]
