"""How long it took from a source record's append to its being servable, batch by batch, over the recent past.

A sample is the age of the *oldest* source record of a worker's batch at the moment when serving had applied that
batch, so percentiles over samples are never better than those over single events. It compares two machines' clocks
(broker and server); their difference is part of the figure.

The feeder adds samples, scoring processes read them: both map the same words, a ring for each table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.tables.shared_file import mapped_words, sparse_file
from serving.tables.store import SERVED_TABLES

__all__ = ["BUCKETS_S", "Delays", "Freshness", "Histogram"]

#: Newest samples kept per table: at a batch every 20 ms about 20 minutes.
_MOST_SAMPLES: Final = 65_536
#: Upper bounds of the counts kept since the file was made.
BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: Of a table: samples ever added, the sum of delays in us, counts by bucket, then the ring of (monotonic ns, delay us).
_ADDED, _SUM, _COUNTS, _RING = 0, 1, 2, 32
_TABLE_WORDS: Final = _RING + 2 * _MOST_SAMPLES


class Delays(NamedTuple):
    """Event-to-servable delays of one table's batches; percentiles are None where there was no batch."""

    batches: int
    p50_ms: float | None
    p99_ms: float | None
    worst_ms: float | None


class Histogram(NamedTuple):
    """All delays since the file was made, as Prometheus counts them."""

    below: list[int]  #: batches within each of BUCKETS_S
    batches: int
    sum_s: float


class Freshness:
    """Samples by table, in a file that is made where there is none. One thread adds; any may read."""

    def __init__(self, path: Path, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = monotonic_s
        size = 8 * _TABLE_WORDS * len(SERVED_TABLES)
        if not path.exists() or path.stat().st_size != size:
            sparse_file(path, size)
        tables = mapped_words(path, writable=True).reshape(len(SERVED_TABLES), _TABLE_WORDS)
        self._tables = dict(zip(SERVED_TABLES, tables, strict=True))

    def add(self, table: str, delay_ms: float) -> None:
        """Note a batch that became servable now."""
        words, ring = self._parts(table)
        ring[int(words[_ADDED]) % _MOST_SAMPLES] = int(self._now_s() * 1e9), int(delay_ms * 1000)
        words[_SUM] += int(delay_ms * 1000)
        words[_COUNTS + int(np.searchsorted(BUCKETS_S, delay_ms / 1000))] += 1
        words[_ADDED] += 1

    def over(self, window_s: float) -> dict[str, Delays]:
        """Delays of the batches of the last `window_s` seconds, by table that ever had one."""
        since_ns = int((self._now_s() - window_s) * 1e9)
        found = {}
        for table in SERVED_TABLES:
            words, ring = self._parts(table)
            samples = ring[: min(int(words[_ADDED]), _MOST_SAMPLES)]
            if len(samples):
                found[table] = _summary(samples[samples[:, 0] >= since_ns, 1] / 1000)
        return found

    def histogram(self, table: str) -> Histogram:
        """All delays of a table."""
        words, _ = self._parts(table)
        counts = words[_COUNTS : _COUNTS + len(BUCKETS_S) + 1]
        return Histogram(np.cumsum(counts[:-1]).tolist(), int(counts.sum()), int(words[_SUM]) / 1e6)

    def _parts(self, table: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        words = self._tables[table]
        return words, words[_RING:].reshape(_MOST_SAMPLES, 2)


def _summary(delays: npt.NDArray[np.float64]) -> Delays:
    if not len(delays):
        return Delays(0, None, None, None)
    p50, p99 = np.percentile(delays, [50, 99]).tolist()
    return Delays(len(delays), round(p50, 3), round(p99, 3), float(delays.max()))
