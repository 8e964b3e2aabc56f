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
from bench.window_load import user_batches
from domain.user_row import FINGERPRINT
from domain.user_state import EventBatch, Folded, fold
from models.point_in_time import export_features
from schemas.codec import codec
from schemas.ids import chunk_key, entity_key
from schemas.records import ACTIONS
from streams.store import Row, Store

__all__ = ["measure_windows"]

_BATCH: Final = 5_000
#: Share of the log that fills rows before the clock starts.
_WARM: Final = 0.5
Progress = Callable[[str, int], None]


class _Users:
    """Rows of all users in memory."""

    def __init__(self) -> None:
        self.heads: dict[int, bytes] = {}
        self.chunks: dict[tuple[int, int], bytes] = {}
        self.clock_ms = -(2**61)

    def fold(self, batch: EventBatch) -> tuple[Folded, float]:
        """What a batch did, and the seconds that the fold alone took."""
        started = time.perf_counter()
        folded = fold(self.heads, batch, 1, read_chunks=self._open, clock_ms=self.clock_ms)
        spent = time.perf_counter() - started
        self.heads |= folded.heads
        self.clock_ms = folded.clock_ms
        for place, chunk in folded.chunks.items():
            if chunk is None:
                del self.chunks[place]
            else:
                self.chunks[place] = chunk
        return folded, spent

    def _open(self, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        return {place: self.chunks[place] for place in wanted}


def measure_windows(events: int, users: int, repetitions: int, progress: Progress) -> dict[str, Any]:
    """Measure and return what `aif bench windows --json` prints.

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
    found |= _bytes(user_batches(events, users, _BATCH))
    found["hot_to_uniform"] = round(found["fold_hot_events_per_s"] / found["fold_uniform_events_per_s"], 2)
    return found | {
        "events": events, "users": users, "batch": _BATCH, "repetitions": repetitions, "machine": surroundings,
        "commit": commit(),
    }  # fmt: skip


def _rate(batches: list[EventBatch]) -> float:
    state, spent, counted = _Users(), 0.0, 0
    for number, batch in enumerate(batches):
        _, seconds = state.fold(batch)
        if number >= _WARM * len(batches):
            spent += seconds
            counted += len(batch)
    return counted / spent


def _bytes(batches: list[EventBatch]) -> dict[str, Any]:
    """Sizes of rows, and what a batch writes, over the second half of a log."""
    state = _Users()
    encode_chunk = codec("user_chunk").encode
    per_event: list[float] = []
    changelog = written = source = events = 0
    with tempfile.TemporaryDirectory(prefix="aif-bench-") as folder:
        store = Store(Path(folder) / "users-0.db")
        for number, batch in enumerate(batches):
            folded, _ = state.fold(batch)
            rows: list[Row] = [(entity_key(user), head) for user, head in folded.heads.items()]
            for (user, place), chunk in folded.chunks.items():
                value = None if chunk is None else encode_chunk({"fingerprint": FINGERPRINT, "behaviours": chunk})
                rows.append((chunk_key(user, place), value))
            before = _written()
            store.put_many(rows, number)
            if number >= _WARM * len(batches):
                written += _written() - before
                size = sum(len(key) + len(value or b"") for key, value in rows)
                changelog += size
                per_event.append(size / len(batch))
                source += sum(map(len, _encoded(batch)))
                events += len(batch)
        before = _written()
        store.close()
        written += _written() - before
    sizes = np.array([len(head) for head in state.heads.values()])
    return {
        "bytes_per_user": {
            "typical": int(np.median(sizes)), "p99": int(np.percentile(sizes, 99)), "max": int(max(sizes)),
        },
        "changelog_bytes_per_event": {
            "p50": round(float(np.median(per_event))), "p99": round(float(np.percentile(per_event, 99))),
        },
        "write_amplification": {
            "event_bytes": round(source / events),
            "changelog_bytes_per_event": round(changelog / events),
            "rocksdb_bytes_per_event": round(written / events),
            "total": round((changelog + written) / source, 1),
        },
    }  # fmt: skip


def _encoded(batch: EventBatch) -> list[bytes]:
    encode = codec("user_event").encode
    columns = [getattr(batch, name).tolist() for name in ("event_id", "user_id", "item_id", "event_time_ms", "action")]
    return [
        encode({"event_id": event, "user_id": user, "item_id": item, "event_time_ms": at, "action": ACTIONS[action]})
        for event, user, item, at, action in zip(*columns, strict=True)
    ]


def _written() -> int:
    """Bytes that this process has handed to files so far; RocksDB's background threads included."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


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
