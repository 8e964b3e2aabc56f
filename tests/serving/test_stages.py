from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from serving.stages import PERCENTILES, STAGES, TOTAL, StageClock, StageTimes


class Clock:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:  # noqa: D102
        return self.now_s


def spent(**ms: float) -> StageClock:
    """A clock that has measured this."""
    clock = StageClock()
    clock.ms.update(ms)
    return clock


def test_a_clock_adds_up_blocks_of_a_stage() -> None:
    """Every stage is there from the start; a block adds to its stage also when it raises."""
    clock = StageClock()
    assert list(clock.ms) == list(STAGES) and set(clock.ms.values()) == {0.0}
    with clock.time("transform"):
        pass
    first = clock.ms["transform"]
    with pytest.raises(KeyError), clock.time("transform"):
        raise KeyError
    assert clock.ms["transform"] > first > 0 and clock.ms["ingress"] == 0
    assert clock.total_ms() >= clock.ms["transform"]
    assert clock.server_timing().count(";dur=") == len(STAGES)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 10_000), min_size=1, max_size=60))
def test_percentiles_are_those_of_the_times(times_ms) -> None:
    """Each percentile lies within the histogram's precision of the sorted times' own."""
    stages = StageTimes()
    for each in times_ms:
        stages.note(spent(inference=each), "v", "ok")
    found = stages.percentiles_ms()["v", "ok", "inference"]
    whole_us = np.maximum(1, np.floor(np.sort(times_ms) * 1000))
    for at in PERCENTILES:
        expected_us = whole_us[max(0, int(at / 100 * len(whole_us) + 0.5) - 1)]
        assert found[at] * 1000 == pytest.approx(expected_us, rel=2e-3, abs=1.01)


def test_percentiles_forget_and_counts_do_not() -> None:
    """After two turns percentiles are of what came since; count and sum are of the whole life."""
    now = Clock()
    stages = StageTimes(now)
    for _ in range(10):
        stages.note(spent(inference=100.0), "v", "ok")
    now.now_s += 61
    stages.note(spent(inference=1.0), "v", "ok")
    assert stages.percentiles_ms()["v", "ok", "inference"][50.0] == pytest.approx(100, rel=1e-2)
    now.now_s += 61
    assert stages.percentiles_ms()["v", "ok", "inference"][99.9] == pytest.approx(1, rel=1e-2)
    registry = CollectorRegistry()
    registry.register(stages)
    assert 'outcome="ok",quantile="0.999",stage="inference",version="v"' in generate_latest(registry).decode()
    now.now_s += 600
    assert stages.percentiles_ms()["v", "ok", "inference"] == {}
    registry = CollectorRegistry()
    registry.register(stages)
    text = generate_latest(registry).decode()
    assert 'aif_rank_stage_seconds_count{outcome="ok",stage="inference",version="v"} 11.0' in text
    assert 'aif_rank_stage_seconds_sum{outcome="ok",stage="inference",version="v"} 1.001' in text


def test_versions_and_outcomes_are_told_apart_within_a_bound() -> None:
    """Each has percentiles of its own, the total included; of too many the oldest is forgotten."""
    stages = StageTimes()
    for version in range(40):
        stages.note(spent(inference=version + 1.0), f"v{version}", "ok")
    kinds = {key[:2] for key in stages.percentiles_ms()}
    assert len(kinds) == 16 and ("v39", "ok") in kinds and ("v0", "ok") not in kinds
    assert ("v39", "ok", TOTAL) in stages.percentiles_ms()
