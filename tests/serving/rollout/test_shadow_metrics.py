"""Scoring in the shadow on /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from domain.shadow import Pair, ShadowSums
from serving.rollout.shadow import Shadow
from serving.rollout.shadow_board import ShadowBoard
from serving.rollout.shadow_metrics import ShadowMetrics

PAIR = Pair("00000000000000aa", 7, "00000000000000bb")


def test_sums_and_counts_are_shown_by_version(tmp_path) -> None:
    """The share before anything is compared; then every outcome, and sums whose means are those of the report."""
    row = ShadowBoard(tmp_path).claim()
    registry = CollectorRegistry()
    registry.register(ShadowMetrics(Shadow(0.25, row, lambda: None, lambda sampled: ShadowSums()), row))
    assert registry.get_sample_value("aif_shadow_share") == 0.25
    assert registry.get_sample_value("aif_shadow_waiting") == 0
    labels = {"version": PAIR.version, "live": PAIR.live}
    assert registry.get_sample_value("aif_shadow_overlap_sum", labels) is None
    row.add(PAIR, ShadowSums(4, 3, 2, 1, 3.0, 2.0, 0.5, -0.25, 8.0, 6.0))

    def value(name: str, **more: str) -> float | None:
        return registry.get_sample_value(f"aif_shadow_{name}", labels | more)

    outcomes = ("compared", "dropped", "incomparable", "failed")
    assert [value("requests_total", outcome=each) for each in outcomes] == [4, 3, 2, 1]
    assert [value(f"{name}_sum") for name in ("overlap", "correlation", "drift", "shift")] == [3.0, 2.0, 0.5, -0.25]
    assert value("overlap_count") == 4
    times = [value("seconds_sum", scored_by=each) for each in (PAIR.version, PAIR.live)]
    assert times == [0.006, 0.008]
