"""Every aggregation equals a recount of the user's events by its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import user_event

from domain.feature_plan import PLAN, Plan
from domain.feature_values import distinct_estimate, feature_values
from domain.features import FEATURES, Feature
from domain.user_state import EventBatch, fold
from domain.windows import LONGEST_MS, WINDOWS
from schemas.codec import codec
from schemas.records import ACTIONS, UserEvent

T0 = 1_700_000_000_000
DAY_MS = 86_400_000
DECLARED = (
    *FEATURES,
    Feature("odd_window", "max", ("cart", "click"), "x", "", 50 * 60_000),
    Feature("breadth", "distinct", ("click", "view"), "x", "", 6 * DAY_MS, of="category"),
    Feature("short", "decayed", ("click",), "x", "", half_life_ms=60_000),
)
GAPS_MS = st.sampled_from([0, 0, 1, 59_999, 60_000, 600_000, 3_600_000, 14_400_000, DAY_MS, 9 * DAY_MS, 400 * DAY_MS])
drawn_events = st.lists(
    st.tuples(
        GAPS_MS, st.sampled_from([0, 0, 0, 90_000, DAY_MS]), st.sampled_from(ACTIONS), st.integers(0, 6),
        st.none() | st.integers(0, 5), st.none() | st.sampled_from([0.0, -2.5, 0.1, 3.0]),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


def _row(batch: EventBatch, user: int, plan: Plan = PLAN) -> Any:
    """A user's row after a batch."""
    return codec("user_head").decode(fold({}, batch, 1, plan=plan).heads[user])


def _events(drawn: list) -> list[UserEvent]:
    now, events = T0, []
    for number, (gap, late, action, item, category, value) in enumerate(drawn):
        now += gap
        events.append(user_event(number, 1, item, now - late, action) | {"category_id": category, "value": value})
    return events


def _by_definition(feature: Feature, events: list[UserEvent], at: int) -> object:
    """A feature's value from the list of counted events."""

    def inside(actions: tuple[str, ...]) -> list[UserEvent]:
        tile = next(
            window.tile_ms for window in reversed(WINDOWS)
            if feature.window_ms % window.tile_ms == 0 and 5 * window.tile_ms <= feature.window_ms <= window.length_ms
        )  # fmt: skip
        oldest = (at - feature.window_ms) // tile * tile
        return [e for e in events if e["action"] in actions and oldest <= e["event_time_ms"] // tile * tile <= at]

    own = [event for event in events if event["action"] in feature.actions]
    kind = feature.aggregation
    if kind in ("count", "rate"):
        count = len(inside(feature.actions))
        below = len(inside(feature.over)) if kind == "rate" else 0
        return count if kind == "count" else count / below if below else None
    if kind in ("sum", "mean", "min", "max"):
        values = [event["value"] for event in inside(feature.actions) if event["value"] is not None]
        pick = {"sum": sum, "mean": lambda some: sum(some) / len(some), "min": min, "max": max}[kind]
        return pick(values) if values else None
    if kind == "distinct":
        name = "item_id" if feature.of == "item" else "category_id"
        return len({event[name] for event in inside(feature.actions)} - {None})
    if kind in ("last_time", "time_since"):
        last = max((event["event_time_ms"] for event in own), default=None)
        return last if last is None or kind == "last_time" else at - last
    weights = [2.0 ** -((at - event["event_time_ms"]) / feature.half_life_ms) for event in own]
    if kind == "decayed":
        return sum(weights)
    by_category: dict[int, float] = {}
    for event, weight in zip(own, weights, strict=True):
        if event["category_id"] is not None:
            by_category[event["category_id"]] = by_category.get(event["category_id"], 0.0) + weight
    return dict(sorted(by_category.items(), key=lambda entry: -entry[1])[: feature.k])


def _counted(events: list[UserEvent]) -> list[UserEvent]:
    newest, counted = -(2**61), []
    for event in events:
        if event["event_time_ms"] >= newest - LONGEST_MS:
            counted.append(event)
            newest = max(newest, event["event_time_ms"])
    return counted


@settings(max_examples=150, deadline=None)
@given(drawn_events, st.integers(0, 9 * DAY_MS))
def test_values_equal_their_definitions(drawn, later) -> None:
    """At any time from the newest event on: late, tied, at tile edges, years apart; none where there is none."""
    events, plan = _events(drawn), Plan.of(DECLARED)
    head = _row(EventBatch.of(range(len(events)), events), 1, plan)
    at = head["newest_event_time_ms"] + later
    found = feature_values([None, head], np.array([at, at]), plan)
    counted = _counted(events)
    for feature in DECLARED:
        nobody, value = found[feature.name].items()
        assert nobody is None
        expected = _by_definition(feature, counted, at)
        if feature.aggregation == "top_categories":
            weights = {each["category_id"]: each["weight"] for each in value}
            np.testing.assert_allclose(sorted(weights.values()), sorted(expected.values()), rtol=1e-6)
        elif expected is None:
            assert value is None, feature.name
        elif feature.aggregation == "distinct":
            assert abs(value - expected) < 0.75, feature.name  # of at most seven, linear counting
        else:
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-12, err_msg=feature.name)


def test_zero_is_not_no_value() -> None:
    """A purchase for nothing is a sum of zero; no purchase is no sum."""
    free = {**user_event(1, 1, 5, T0, "purchase"), "value": 0.0}
    heads = [_row(EventBatch.of([0], [each]), 1) for each in (free, user_event(1, 1, 5, T0, "purchase"))]
    found = feature_values(heads, np.array([T0, T0]))
    for name in ("spend_7d", "mean_purchase_7d", "min_purchase_7d", "max_purchase_7d"):
        assert found[name].items() == [0.0, None]
    assert found["reads_1h"].items() == [0, 0]
    assert found["click_rate_24h"].items() == [None, None]


def test_distinct_counts_stay_near_the_truth() -> None:
    """One per cent of the truth below ten on average, and within 20 % at any size tried."""
    random = np.random.default_rng(5)
    for size in (1, 3, 10, 100, 1_000, 20_000):
        place = np.arange(size)
        batch = EventBatch(
            place, place, 0 * place, random.integers(0, 2**60, size), T0 + 0 * place, np.ones(size, "u1"), 0 * place,
            place < 0, place * np.nan,
        )  # fmt: skip
        estimate = feature_values([_row(batch, 0)], np.array([T0]), PLAN)["distinct_items_24h"].items()[0]
        assert abs(estimate - size) <= max(0.2 * size, 0.1), size
    assert distinct_estimate(np.zeros((1, 256), dtype=np.uint8)).tolist() == [0.0]
