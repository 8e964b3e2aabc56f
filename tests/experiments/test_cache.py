from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import cache
from experiments.cache import Caches, Costs, Request, Sizes, late_ms, replay
from experiments.record import page

SIZES, COSTS = Sizes(1000, 10, 100), Costs(1.0, 4.1)


@st.composite
def _requests(draw: st.DrawFn) -> list[Request]:
    """Users that act in categories between their requests."""
    acted: dict[int, dict[int, int]] = {}
    found = []
    for user, category, acts in draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=60)
    ):
        mine = acted.setdefault(user, {})
        if acts or not mine:
            mine[category] = mine.get(category, 0) + 1
        found.append(Request(user, sum(mine.values()), tuple(mine.items())))
    return found


@given(_requests(), st.sampled_from(["inside", "apart", "segmented"]), st.sampled_from(["LRU", "TinyLFU"]))
def test_with_room_for_all_a_request_lacks_only_what_changed(requests: list[Request], layout: str, policy: str) -> None:
    """In a cache that holds everything, a request lacks something exactly when its user acted since the last one."""
    lacking, looked, found = replay(requests, Caches.of(policy, layout, 1 << 24, SIZES, 1.0), SIZES)
    known: dict[int, int] = {}
    for request, lacks in zip(requests, lacking.tolist(), strict=True):
        assert lacks == (known.get(request.user) != request.acted)
        known[request.user] = request.acted
    assert looked == (0 if layout == "inside" else sum(len(each.categories) for each in requests))
    assert found <= looked


def test_a_small_cache_keeps_to_its_bytes() -> None:
    """LRU never holds more than its bytes, so of ten users in turn three fit and none hits."""
    requests = [Request(user, 1, ()) for _ in range(4) for user in range(10)]
    caches = Caches.of("LRU", "inside", 3 * SIZES.state, SIZES, 0.0)
    lacking, _, _ = replay(requests, caches, SIZES)
    assert lacking.all()
    assert caches.states.kept.currsize <= 3 * SIZES.state


def test_waits_are_those_of_one_runner_that_batches() -> None:
    """Far apart, each waits for its own run; all at once, the first runs alone and the others together behind it."""
    alone = late_ms(np.array([True, False, True]), COSTS, rate_per_s=0.001)
    assert alone == pytest.approx([1.0, 0.0, 1.0])
    together = late_ms(np.ones(33, dtype=np.bool_), COSTS, rate_per_s=1e9)
    assert together[0] == pytest.approx(1.0, abs=1e-3)
    assert together[1:] == pytest.approx(np.full(32, 1.0 + 4.1), abs=1e-3)


def test_the_page_shows_every_number_that_was_found() -> None:
    """Each layout and policy has its hit rates and waits in the table of its log, and its line in the figure."""
    rows = [
        {"log": "zipf", "layout": layout, "policy": policy, "megabytes": megabytes, "hit_rate": 0.25, "p99_ms": 2.5}
        for layout in cache._LAYOUTS for policy in ("LRU", "TinyLFU") for megabytes in cache._MEGABYTES
    ]  # fmt: skip
    found = {
        "command": "aif experiment cache", "minutes": 0.1, "machine": "any", "sizes": SIZES._asdict(), "rows": rows,
        "costs": COSTS._asdict(), "rate_per_s": 100.0, "logs": {"zipf": {"requests": 9, "users": 3, "crosses": 1.5}},
    }  # fmt: skip
    assert page("cache", found).count("0.250 / 2.5 ms") == len(rows)
    assert [len(axes.lines) for axes in cache.figure(found).axes] == [6]
