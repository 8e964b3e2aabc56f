"""How long it took from a source record's append to its being servable, batch by batch, over the recent past.

A sample is the age of the *oldest* source record of a worker's batch at the moment when serving had applied that
batch, so percentiles over samples are never better than those over single events. It compares two machines' clocks
(broker and server); their difference is part of the figure.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

__all__ = ["Delays", "Freshness"]

#: Newest samples kept per table: at a batch every 20 ms about 20 minutes.
_MOST_SAMPLES: Final = 65_536


class Delays(NamedTuple):
    """Event-to-servable delays of one table's batches; percentiles are None where there was no batch."""

    batches: int
    p50_ms: float | None
    p99_ms: float | None
    worst_ms: float | None


class Freshness:
    """Samples by table. Any thread may add or read."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = monotonic_s
        self._lock = threading.Lock()
        self._samples: dict[str, deque[tuple[float, float]]] = {}

    def add(self, table: str, delay_ms: float) -> None:
        """Note a batch that became servable now."""
        with self._lock:
            self._samples.setdefault(table, deque(maxlen=_MOST_SAMPLES)).append((self._now_s(), delay_ms))

    def over(self, window_s: float) -> dict[str, Delays]:
        """Delays of the batches of the last `window_s` seconds, by table."""
        since = self._now_s() - window_s
        with self._lock:
            recent = {
                table: [delay for at, delay in samples if at >= since] for table, samples in self._samples.items()
            }
        return {table: _summary(delays) for table, delays in recent.items()}


def _summary(delays: list[float]) -> Delays:
    if not delays:
        return Delays(0, None, None, None)
    p50, p99 = np.percentile(delays, [50, 99]).tolist()
    return Delays(len(delays), round(p50, 3), round(p99, 3), max(delays))
