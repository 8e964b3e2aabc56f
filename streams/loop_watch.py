"""How long the event loop was busy with one thing: the time in which no heartbeat, fetch or health page is answered.

Folds, torch and RocksDB run in executor threads, so what is left are callbacks and the moments in which a thread keeps
the interpreter's lock. Alert on the histogram long before `session_timeout_s`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from prometheus_client import Gauge, Histogram

__all__ = ["watch_loop"]

_EVERY_S: Final = 0.01

_blocks = Histogram(
    "aif_loop_block_seconds", "By how much a 10 ms sleep of the event loop was late.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)  # fmt: skip
_longest = Gauge("aif_loop_block_longest_seconds", "The longest block since the worker started.")


async def watch_loop() -> None:
    """Measure for ever."""
    longest_s = 0.0
    while True:
        began_s = time.monotonic()
        await asyncio.sleep(_EVERY_S)
        late_s = time.monotonic() - began_s - _EVERY_S
        _blocks.observe(max(0.0, late_s))
        if late_s > longest_s:
            longest_s = late_s
            _longest.set(late_s)
