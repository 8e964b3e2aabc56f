from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import item_update, user_event

from models.config import ENGAGEMENTS, ModelConfig
from models.examples import Batches, examples_of
from models.log import Log

_CONFIG = ModelConfig(embedding_dim=2, behaviours=4, long_behaviours=4)
_MINUTE_MS = 60_000


def _log(events: list[tuple[int, int, int, Any]], items: range = range(3)) -> Log:
    updates: list[tuple[str, Any]] = [("item", item_update(item, 0)) for item in items]
    return Log.of(updates + [("user", user_event(n, *event)) for n, event in enumerate(events)], _CONFIG)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.integers(0, 1), st.sampled_from([0, 10, 31]),
            st.sampled_from(["impression", "impression", "click", "like", "dislike"]),
        ),
        min_size=1, max_size=25,
    )
)  # fmt: skip
def test_impressions_are_positive_when_answered(drawn: list[tuple[int, int, int, str]]) -> None:
    """An impression is positive where its user engages with its item within 30 minutes, before it is shown again."""
    times = np.cumsum([gap for _, _, gap, _ in drawn]) * _MINUTE_MS
    events = [(user, item, int(at), action) for (user, item, _, action), at in zip(drawn, times, strict=True)]
    examples = examples_of(_log([(9, 2, 0, "impression"), *((u, i, t, a) for u, i, t, a in events)]))
    expected = {0: 0.0}
    for place, (user, item, at, action) in enumerate(events):
        if action != "impression":
            continue
        later = [e for e in events[place + 1 :] if e[:2] == (user, item) and e[3] in (*ENGAGEMENTS, "impression")]
        answered = later and later[0][3] != "impression" and later[0][2] - at <= 30 * _MINUTE_MS
        expected[place + 1] = float(bool(answered))
    assert not examples.sampled
    assert dict(zip(examples.positions.tolist(), examples.labels.tolist(), strict=True)) == expected


def test_without_impressions_engagements_are_the_examples() -> None:
    """A log without impressions gives its engagements as positives; cancellations and unknown items give nothing."""
    log = _log([(1, 0, 5, "purchase"), (1, 1, 6, "cancel"), (1, 99, 7, "click"), (1, 2, 8, "view")])
    examples = examples_of(log)
    assert examples.sampled
    assert examples.positions.tolist() == [0, 3]
    assert examples.labels.tolist() == [1, 1]


def test_negatives_are_published_not_deleted_and_not_the_positive() -> None:
    """No negative comes from the future, is deleted, or is what was chosen here: such draws have no weight. What the
    user chose before is a negative like any other, as it may be a positive."""
    updates = [("item", item_update(item, 0 if item < 6 else 10_000)) for item in range(12)]
    updates.append(("item", item_update(5, 1, op="delete")))
    events = [("user", user_event(n, n % 2, n % 5, 100 + n)) for n in range(200)]
    log = Log.of([*updates, *events], _CONFIG)
    batch = Batches(log, _CONFIG, negatives=8).batch(examples_of(log), np.random.default_rng(0))
    items = batch.item_ids[batch.candidates].numpy()
    negative = batch.weights[:, 1:].numpy() > 0
    assert set(items[:, 1:][negative].tolist()) == set(range(5))
    assert not (negative & (items[:, 1:] == items[:, :1])).any()
    assert (batch.weights[:, 0] == 1).all()
    # Users alternate and items repeat every five events: from its fifth event on a user had every item before.
    assert negative[10:].any()


def test_draws_are_of_the_past() -> None:
    """Popular negatives are items of earlier events, uniform ones items published by then."""
    updates = [("item", item_update(item, 1000 * item)) for item in range(50)]
    events = [("user", user_event(n, n, n, 1000 * n + 1)) for n in range(50)]
    log = Log.of([*updates, *events], _CONFIG)
    positions = np.repeat(np.arange(1, 50), 20)
    drawn = Batches(log, _CONFIG, negatives=4)._drawn(positions, 4, np.random.default_rng(1))
    assert (drawn[:, 0::2] < positions[:, None]).all()
    assert (drawn[:, 1::2] <= positions[:, None]).all()
    assert (drawn[:, 1::2] == positions[:, None]).any()


def test_held_out_impressions_share_one_state_per_user() -> None:
    """Held-out impressions see their user as of the first of them, the others each as of itself."""
    events = [(n % 2, 0, n * _MINUTE_MS, "impression") for n in range(20)]
    log = _log(events)
    known, tail = examples_of(log).split(log, held_out=0.4)
    assert known.states.tolist() == known.positions.tolist() == list(range(12))
    assert tail.positions.tolist() == list(range(12, 20))
    assert tail.states.tolist() == [12, 13] * 4


def test_behaviours_join_the_row_of_their_time() -> None:
    """A behaviour's item is read as the index held it at the event, and is masked where it had no row yet."""
    updates: list[tuple[str, Any]] = [("item", item_update(1, 0, price=1.0)), ("item", item_update(1, 50, price=5.0))]
    updates.append(("item", item_update(2, 30, price=2.0)))
    events = [user_event(0, 7, 2, 10), user_event(1, 7, 1, 20), user_event(2, 7, 1, 60), user_event(3, 7, 1, 70)]
    log = Log.of(updates + [("user", event) for event in events], _CONFIG)
    examples = examples_of(log)
    assert examples.positions.tolist() == [1, 2, 3]
    batch = Batches(log, _CONFIG, negatives=1).batch(examples, np.random.default_rng(0))
    prices = np.expm1(batch.numeric[:, 0].numpy())[batch.behaviours.numpy()]
    assert batch.present.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    np.testing.assert_allclose(prices[1, :2], [5, 2], rtol=1e-6)
    np.testing.assert_allclose(prices[2, :3], [5, 5, 2], rtol=1e-6)
