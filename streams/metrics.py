"""The worker's Prometheus metrics; names are those of the documents and topics."""

from __future__ import annotations

import math
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from domain.decisions import Coverage
from domain.rollout import Version
from streams.fold import Writes

__all__ = [
    "artifacts_pruned",
    "batch_applied",
    "build",
    "decided",
    "fed_without_model",
    "model_loads_failed",
    "rebuilt",
    "rollout_unreadable",
    "slots",
    "stood_in",
    "transaction_seconds",
]

_records = Counter("aif_source_records", "Source records applied.", ["source"])
_batches = Counter("aif_batches", "Batches committed.", ["source"])
_rows = Counter("aif_table_rows", "Table rows written.", ["table"])
_dead_letters = Counter("aif_dead_letters", "Records refused.", ["source"])
_outcomes = Counter("aif_outcomes", "Records by what came of them, beside the plain case.", ["source", "outcome"])
_rebuilt = Counter("aif_rebuilt_rows", "Rows recomputed for another model or other declarations, or swept.", ["table"])

transaction_seconds = Histogram(
    "aif_transaction_seconds", "Time of a batch's Kafka transaction.", ["source"],
    buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)  # fmt: skip
decided = Counter("aif_rollout_decisions", "Decisions that this worker wrote as the coordinator.", ["decision"])
stood_in = Counter("aif_rollout_stood_in", "Commands that this worker decided on because the coordinator was silent.")
_build_items = Gauge(
    "aif_build_items", "Items of the version that is building, at the coordinator; 0 where none is.", ["counted"]
)
_build_items_per_s = Gauge("aif_build_items_per_s", "Items a second of that build, all partitions together.")
_build_seconds_left = Gauge("aif_build_seconds_left", "Time left of that build; NaN where it is unknown or none is.")
model_loads_failed = Counter("aif_model_loads_failed", "Attempts to load the item model of a version that failed.")
artifacts_pruned = Counter("aif_artifacts_pruned", "Copies of artifacts deleted: of versions gone, or long unused.")
fed_without_model = Gauge("aif_fed_versions_without_model", "Versions whose rows fall behind: no model of theirs here.")
_slot_versions = Gauge("aif_slot_version", "1 for the version that a slot holds.", ["table", "version", "phase"])
rollout_unreadable = Counter("aif_rollout_unreadable", "Decisions that this build cannot read.")


def batch_applied(source: str, records: int, writes: Writes) -> None:
    """Count a committed batch."""
    _records.labels(source).inc(records)
    _batches.labels(source).inc()
    _dead_letters.labels(source).inc(len(writes.dead_letters))
    for table, rows in writes.rows.items():
        _rows.labels(table).inc(len(rows))
    for outcome, count in writes.counts.items():
        _outcomes.labels(source, outcome).inc(count)


def rebuilt(source: str, writes: Writes) -> None:
    """Count a committed piece of a rebuild."""
    for table, rows in writes.rows.items():
        _rebuilt.labels(table).inc(len(rows))
    for outcome, count in writes.counts.items():
        _outcomes.labels(source, outcome).inc(count)


def slots(fed: Iterable[Version]) -> None:
    """Show which versions the slots hold: with aif_table_rows, the rows written by version."""
    _slot_versions.clear()
    for version in fed:
        _slot_versions.labels(version.slot, version.name, version.phase).set(1)


def build(coverage: Coverage | None) -> None:
    """Show how far the version that is building is; None where none is, or another worker coordinates."""
    _build_items.labels("all").set(coverage.items if coverage else 0)
    _build_items.labels("written").set(coverage.written if coverage else 0)
    _build_items.labels("rejected").set(coverage.rejected if coverage else 0)
    _build_items_per_s.set(coverage.items_per_s if coverage else 0)
    left_s = coverage.seconds_left if coverage else None
    _build_seconds_left.set(math.nan if left_s is None else left_s)
