"""What /metrics shows. Counters and histograms are moved by the code that knows; gauges are read when scraped.

What a process counts and what the host's state is are apart: of several processes each has counters of its own
(process_metrics.py), and all show the same state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.feeding.freshness import BUCKETS_S, Freshness
from serving.joining import MISMATCHES
from serving.kernels import kernel
from serving.process_metrics import ProcessMetrics
from serving.rollout.versions import Versions
from serving.stages import StageTimes
from serving.tables.progress import Progress
from serving.tables.store import SERVED_TABLES, Store

__all__ = ["Labelled", "Metrics"]


class Labelled(dict[Any, Counter]):
    """A counter's children by label values: a look-up in a dictionary, a fifth of the cost of `labels`."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __missing__(self, values: Any) -> Counter:
        child = self[values] = self._counter.labels(*(values if isinstance(values, tuple) else (values,)))
        return child


class Metrics:
    """The metrics of one serving process: `registry` has what it counts itself."""

    def __init__(self, store: Store, versions: Versions, progress: Progress, freshness: Freshness) -> None:
        self.registry = CollectorRegistry()
        self._counted = self.registry
        self._state = CollectorRegistry()
        self._state.register(_State(store, versions, progress, freshness))
        self.requests = self._counter("aif_requests", "Requests by route and status.", "route", "status")
        self.candidates = self._counter("aif_candidates", "Candidates by what became of them.", "outcome")
        self.behaviours = self._counter(
            "aif_behaviours", "Behaviours of rank requests by whether they had a row.", "outcome"
        )
        self.users = self._counter("aif_rank_users", "Users of rank requests by what was known of them.", "outcome")
        self.shed = self._counter("aif_requests_shed", "Requests refused, by the bound that they met.", "bound")
        self.stages = StageTimes()
        self.registry.register(self.stages)
        self.registry.register(_Mismatches())
        Info("aif_kernel", "What computes scores.", registry=self.registry).info({"kernel": kernel().name})

    def _counter(self, name: str, says: str, *labels: str) -> Labelled:
        return Labelled(Counter(name, says, labels, registry=self.registry))

    def share(self, processes: ProcessMetrics) -> None:
        """Show what all scoring processes of this host count, not this one's alone."""
        self._counted = CollectorRegistry()
        self._counted.register(processes)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._state) + generate_latest(self._counted)


class _Mismatches(Collector):
    """Joins that were refused (joining.py)."""

    def collect(self) -> Iterator[Metric]:
        """The counter; must stay empty."""
        refused = CounterMetricFamily(
            "aif_version_mismatches", "Parts of different versions that were not joined.", labels=["made"]
        )
        for made, count in list(MISMATCHES.items()):
            refused.add_metric([made], count)
        yield refused


class _State(Collector):
    """Gauges over the state as it is at the scrape."""

    def __init__(self, store: Store, versions: Versions, progress: Progress, freshness: Freshness) -> None:
        self._store, self._versions, self._progress, self._freshness = store, versions, progress, freshness

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        yield from self._collect_store()
        yield from self._collect_versions()
        progress = self._progress
        yield _gauge("aif_ready", "1 where /readyz answers 200.", float(not progress.not_ready(self._versions)))
        yield _gauge("aif_broker_connected", "1 while the broker answers.", float(progress.connected))
        if (age_ms := progress.age_ms(self._store)) is not None:
            yield _gauge(
                "aif_data_age_seconds", "Since the feed last held all that the changelogs held.", age_ms / 1000
            )
        lag = GaugeMetricFamily("aif_feed_lag", "Changelog offsets not applied yet.", labels=["table", "partition"])
        for at, behind in progress.lag.items():
            lag.add_metric([at.table, str(at.partition)], behind)
        yield lag
        yield self._delays()

    def _delays(self) -> Metric:
        """What the feeder has measured, in words that it shares."""
        family = HistogramMetricFamily(
            "aif_event_to_servable_seconds",
            "From a source batch's oldest append to its being servable.",
            labels=["table"],
        )
        for table in SERVED_TABLES:
            found = self._freshness.histogram(table)
            if found.batches:
                bounds = [str(bound) for bound in BUCKETS_S]
                buckets = [*zip(bounds, map(float, found.below), strict=True), ("+Inf", float(found.batches))]
                family.add_metric([table], buckets, found.sum_s)
        return family

    def _collect_store(self) -> Iterator[Metric]:
        store = self._store
        yield _gauge("aif_items", "Live items.", len(store.items))
        yield _gauge("aif_users", "Users with a row.", len(store.users))
        yield _gauge("aif_store_bytes", "Memory of slabs and user rows.", store.nbytes)
        refused = CounterMetricFamily("aif_rows_refused", "Changelog rows left out.", labels=["table", "reason"])
        for (table, reason), count in list(store.refused.items()):
            refused.add_metric([table, reason], count)
        yield refused

    def _collect_versions(self) -> Iterator[Metric]:
        rows = GaugeMetricFamily("aif_slab_rows", "Rows by model version and slot.", labels=["version", "slot"])
        coverage = GaugeMetricFamily("aif_coverage", "Servable rows per live item.", labels=["version", "slot"])
        revoked = CounterMetricFamily(
            "aif_slab_leases_revoked", "Reads begun again: they took longer than memory could wait for.",
            labels=["version", "slot"],
        )  # fmt: skip
        damaged = CounterMetricFamily(
            "aif_slab_rows_damaged", "Rows read that were of another item or version; they count as missing.",
            labels=["version", "slot"],
        )  # fmt: skip
        for key, slab in self._store.slabs.items():
            labels = [f"{key.tag:016x}", key.slot]
            rows.add_metric(labels, len(slab))
            coverage.add_metric(labels, self._store.coverage(key))
            revoked.add_metric(labels, slab.revoked)
            damaged.add_metric(labels, slab.damaged)
        yield from (rows, coverage, revoked, damaged)
        live = GaugeMetricFamily("aif_live_version", "The version that answers.", labels=["version"])
        if version := self._versions.live:
            live.add_metric([version.name], 1)
        yield live
        yield CounterMetricFamily(
            "aif_artifacts_refused", "Artifacts that failed their checks.", value=self._versions.refusals
        )


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(name, says, value=value)
