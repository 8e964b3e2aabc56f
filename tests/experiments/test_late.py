from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted import item_update, user_event

from experiments.late import held_late, recent_events
from experiments.logs import Plan
from experiments.measured import Data, data_of
from models.config import ModelConfig
from models.log import Log

_MINUTE = 60_000
_START_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def moving(small: ModelConfig) -> Data:
    """Forty items, half of which come while users act and whose prices change every 50 minutes; an event a minute."""
    random = np.random.default_rng(5)
    entries: list[tuple[str, Any]] = []
    for minute in range(600):
        at_ms = _START_MS + minute * _MINUTE
        for item in range(40):
            comes = 0 if item < 20 else 10 * item
            if minute >= comes and (minute - comes) % 50 == 0:
                vector = random.standard_normal(small.embedding_dim).astype("<f4").tobytes()
                entries.append(("item", item_update(item, at_ms, price=float(minute + 1), embedding=vector)))
        item = int(random.integers(20 if minute < 400 else 40))
        entries.append(("user", user_event(minute, int(random.integers(6)), item, at_ms + 1)))
    return data_of(Log.of(entries, small), small, Plan(examples=500, held_out=0.4, trained=50, judged=60))


def test_nothing_late_is_what_is_read_at_once(moving: Data) -> None:
    """Without age and lag every tensor of every batch is that of the judged examples."""
    for fresh, late in zip(moving.held.batches, held_late(moving).batches, strict=True):
        assert all(np.array_equal(value, vars(late)[name]) for name, value in vars(fresh).items())


@pytest.mark.parametrize("age", [1, 37, 200])
def test_old_items_are_what_they_were(moving: Data, age: int) -> None:
    """A candidate of an age has the last price, signature and activity from before then, or its first ones if it came
    later; labels stay."""
    log, age_ms = moving.log, age * _MINUTE
    late = held_late(moving, item_age_ms=age_ms)
    assert late.labels is moving.held.labels
    catalogue, start = log.catalogue, 0
    for fresh, old in zip(moving.held.batches, late.batches, strict=True):
        positions = moving.tail.positions[start : start + len(fresh.labels)]
        start += len(positions)
        items = fresh.item_ids[fresh.candidates].numpy()
        np.testing.assert_array_equal(old.item_ids[old.candidates].numpy(), items)
        for user, place in np.ndindex(*items.shape):
            own = np.flatnonzero(catalogue.item_id == items[user, place])
            then = log.events.time_ms[positions[user]] - age_ms
            known = own[catalogue.time_ms[own] <= then]
            row = known[-1] if len(known) else own[0]
            earlier = np.flatnonzero(log.events.time_ms <= then)
            end = min(positions[user], earlier[-1] + 1 if len(earlier) else 0)
            snapshot = moving.batches.activity.before(items[user, place][None], np.array([end]))
            inputs = catalogue.inputs.take(np.array([row])).with_activity(moving.batches.activity.features[snapshot])
            np.testing.assert_array_equal(old.numeric[old.candidates[user, place]].numpy(), inputs.numeric[0])
            np.testing.assert_array_equal(old.embedding[old.candidates[user, place]].numpy(), inputs.embedding[0])


def test_late_users_lack_their_latest_events(moving: Data) -> None:
    """Under a lag a user has the behaviours that are older than it, newest first, with their ages as of the request."""
    lag_ms, events, start = 30 * _MINUTE, moving.log.events, 0
    for fresh, late in zip(moving.held.batches, held_late(moving, user_lag_ms=lag_ms).batches, strict=True):
        states = moving.tail.states[start : start + len(fresh.labels)]
        start += len(states)
        for user, state in enumerate(states):
            mine = np.flatnonzero(events.user_id[:state] == events.user_id[state])
            known = mine[events.time_ms[mine] <= events.time_ms[state] - lag_ms][::-1][: late.present.shape[1]]
            found = late.item_ids[late.behaviours[user, : len(known)]].numpy()
            assert int(late.present[user].sum()) == len(known)
            np.testing.assert_array_equal(found, events.item_id[known])
            hours = np.log1p((events.time_ms[state] - events.time_ms[known]) / 3_600_000)
            np.testing.assert_allclose(late.ages[user, : len(known)].numpy(), hours, rtol=1e-5)


def test_recent_events_are_counted(moving: Data) -> None:
    """How fast an item moves is how often it was met in the time before, the event itself left out."""
    window_ms, events = 90 * _MINUTE, moving.log.events
    expected, start = [], 0
    for batch in moving.held.batches:
        for user, position in enumerate(moving.tail.positions[start : start + len(batch.labels)]):
            at_ms = events.time_ms[position]
            lately = (events.time_ms >= at_ms - window_ms) & (events.time_ms < at_ms)
            for place in range(batch.candidates.shape[1]):
                if batch.weights[user, place] > 0:
                    item = int(batch.item_ids[batch.candidates[user, place]])
                    expected.append(int((lately & (events.item_id == item)).sum()))
        start += len(batch.labels)
    assert recent_events(moving, window_ms).tolist() == expected
