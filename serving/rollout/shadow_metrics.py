"""What /metrics shows of scoring in the shadow, of one process: sums and counts of the pair that it compared last."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from serving.rollout.shadow import Shadow
from serving.rollout.shadow_board import ShadowRow

__all__ = ["ShadowMetrics"]

_SUMS = (
    ("overlap", "overlap_sum", "Share of the live version's top k that the covered one's holds."),
    ("correlation", "correlation_sum", "Rank correlation of the covered version with the live one."),
    ("drift", "drift_sum", "Mean over candidates of |score - live score|."),
    ("shift", "shift_sum", "Mean over candidates of score - live score."),
)


class ShadowMetrics(Collector):
    """A collector over a process's row; what it shows begins at 0 with each pair, as Prometheus' counters may."""

    def __init__(self, shadow: Shadow, row: ShadowRow) -> None:
        self._shadow = shadow
        self._row = row

    def collect(self) -> Iterator[Metric]:
        """The share and the queue always, the rest once something was compared."""
        shadow, seen = self._shadow, self._row.seen
        yield GaugeMetricFamily("aif_shadow_share", "Share of requests that is sampled.", value=shadow.share)
        yield GaugeMetricFamily("aif_shadow_waiting", "Sampled requests in the queue.", value=len(shadow))
        if seen is None:
            return
        pair, sums = seen
        names, labels = ["version", "live"], [pair.version, pair.live]
        requests = CounterMetricFamily(
            "aif_shadow_requests", "Sampled requests by what became of them.", labels=[*names, "outcome"]
        )
        outcomes = {"compared": sums.requests, "dropped": sums.dropped, "failed": sums.failed}
        for outcome, count in {**outcomes, "incomparable": sums.incomparable}.items():
            requests.add_metric([*labels, outcome], count)
        yield requests
        for name, field, says in _SUMS:
            family = SummaryMetricFamily(f"aif_shadow_{name}", says, labels=names)
            family.add_metric(labels, sums.requests, getattr(sums, field))
            yield family
        times = SummaryMetricFamily(
            "aif_shadow_seconds", "User phase and scoring in the shadow, by who scored.", labels=[*names, "scored_by"]
        )
        for scored_by, total_ms in zip(labels, (sums.shadow_ms_sum, sums.live_ms_sum), strict=True):
            times.add_metric([*labels, scored_by], sums.requests, total_ms / 1000)
        yield times
