"""What windows, features and sequences cost: the pure fold, bytes of rows and writes, export of training rows.

Nothing here needs a broker. Each figure is of this process alone; the collector of garbage is tuned as in a worker.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.machine import Cores, commit, machine
from bench.window_bytes import WARM, Users, bytes_written, dataset_batches
from bench.window_load import user_batches
from domain.user_state import EventBatch
from models.point_in_time import export_features
from schemas.records import ACTIONS

__all__ = ["measure_dataset", "measure_windows"]

_BATCH: Final = 5_000
Progress = Callable[[str, int], None]


def measure_windows(events: int, users: int, repetitions: int, progress: Progress) -> dict[str, Any]:
    """Measure and return what `aif bench windows --json` prints.

    Folds are measured in CPU seconds, so that other programs on the machine disturb them little.
    `fold_events_per_s`: events in sessions of 2.5; `fold_dense_events_per_s`: 25 events per user and batch;
    `fold_uniform_events_per_s`: every event another user, the worst case, for a row costs more than an event;
    `fold_hot_events_per_s`: that, with a tenth of all events on one user. `write_amplification`: bytes
    that RocksDB writes, compaction and log included, and changelog bytes before compression, per byte of event.
    """
    surroundings = machine(Cores.available())
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # as streams/worker.py sets it
    runs: dict[str, list[float]] = {}
    figures: dict[str, Callable[[], float]] = {
        "fold_events_per_s": lambda: _rate(user_batches(events, users, _BATCH)),
        "fold_dense_events_per_s": lambda: _rate(user_batches(events, 200, _BATCH)),
        "fold_uniform_events_per_s": lambda: _rate(user_batches(events, users, _BATCH, session=1.0)),
        "fold_hot_events_per_s": lambda: _rate(user_batches(events, users, _BATCH, session=1.0, hot=0.1)),
        "export_rows_per_s": lambda: _export(user_batches(events, users, _BATCH)),
    }
    for repetition in range(repetitions):
        for name, figure in figures.items():
            progress(name, repetition)
            runs.setdefault(name, []).append(figure())
    progress("bytes", 0)
    found: dict[str, Any] = {name: round(median(values)) for name, values in runs.items()}
    found |= bytes_written([(0, batch) for batch in user_batches(events, users, _BATCH)])
    found["hot_to_uniform"] = round(found["fold_hot_events_per_s"] / found["fold_uniform_events_per_s"], 2)
    return found | {
        "events": events, "users": users, "batch": _BATCH, "repetitions": repetitions, "machine": surroundings,
        "commit": commit(),
    }  # fmt: skip


def measure_dataset(name: str, path: Path | None) -> dict[str, Any]:
    """What the user events of a data set write, in batches of 1,000 records of a partition."""
    return {f"{name} {key}": value for key, value in bytes_written(dataset_batches(name, path, 1_000)).items()}


def _rate(batches: list[EventBatch]) -> float:
    state, spent, counted = Users(), 0.0, 0
    for number, batch in enumerate(batches):
        _, seconds = state.fold(batch)
        if number >= WARM * len(batches):
            spent += seconds
            counted += len(batch)
    return counted / spent


def _export(batches: list[EventBatch]) -> float:
    """Labels on every second event."""
    with tempfile.TemporaryDirectory(prefix="aif-bench-") as name:
        folder = Path(name)
        columns: dict[str, Any] = {
            field: np.concatenate([getattr(batch, field) for batch in batches])
            for field in ("event_id", "user_id", "item_id", "event_time_ms", "category_id", "action", "value")
        }
        position = np.arange(0, len(columns["user_id"]), 2)
        labels = {"user_id": columns["user_id"][position], "position": position}
        labels["at_ms"] = columns["event_time_ms"][position]
        columns["action"] = pa.DictionaryArray.from_arrays(columns["action"].astype(np.int8), list(ACTIONS))
        pq.write_table(pa.table(columns), folder / "events")
        pq.write_table(pa.table(labels), folder / "labels")
        started = time.perf_counter()
        rows = export_features(folder / "events", folder / "labels", folder / "out", lambda *_: None)
        return rows / (time.perf_counter() - started)
