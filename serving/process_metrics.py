"""Metrics of all scoring processes of a host, whichever of them is scraped.

Every process leaves its own counters in a file, every few seconds; the one that is scraped shows its own as they are
now and the others' as they left them, each with the label `process`. Counters of a process that is started again begin
at 0, as Prometheus expects. What a process that is gone left is shown for `_STALE_S`, then no more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from serving.quiet import yield_to_requests

__all__ = ["ProcessMetrics"]

#: A snapshot takes milliseconds, most of them for percentiles: rare enough that few requests meet one.
_EVERY_S: Final = 5.0
_STALE_S: Final = 30.0


class ProcessMetrics(Collector):
    """Shows `own`, the registry of process `number`, and what the other processes left in `folder`."""

    def __init__(self, folder: Path, number: int, own: CollectorRegistry) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._number, self._own = folder, number, own
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Leave snapshots from now on, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and take what was left away."""
        self._stopping.set()
        self._thread.join()
        self._path(self._number).unlink(missing_ok=True)

    def leave(self) -> None:
        """Write a snapshot, whole or not at all."""
        families = [
            (each.name, each.documentation, each.type, [(one.name, one.labels, one.value) for one in each.samples])
            for each in self._own.collect()
        ]
        beside = self._path(self._number).with_suffix(".new")
        beside.write_bytes(orjson.dumps(families))
        beside.replace(self._path(self._number))

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the samples of all processes."""
        merged: dict[str, Metric] = {}
        for family in self._own.collect():
            shown = Metric(family.name, family.documentation, family.type)
            for each in family.samples:
                shown.add_sample(each.name, {**each.labels, "process": str(self._number)}, each.value)
            merged[family.name] = shown
        for number, families in self._left():
            for name, says, kind, samples in families:
                shown = merged.setdefault(name, Metric(name, says, kind))
                for sample, labels, value in samples:
                    shown.add_sample(sample, {**labels, "process": number}, value)
        yield from merged.values()

    def _left(self) -> Iterator[tuple[str, list[Any]]]:
        for path in sorted(self._folder.glob("*.json")):
            if path != self._path(self._number):
                try:
                    fresh = time.time() - path.stat().st_mtime < _STALE_S
                    content = path.read_bytes()
                except FileNotFoundError:  # its process ended meanwhile
                    continue
                if fresh:
                    yield path.stem, orjson.loads(content)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _run(self) -> None:
        yield_to_requests()
        while not self._stopping.wait(_EVERY_S):
            self.leave()
