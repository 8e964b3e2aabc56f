"""CPU times of short calls, and medians over rounds in which everything is measured in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from statistics import median
from typing import Final

__all__ = ["in_rounds", "milliseconds"]

_WARM: Final = 2
_LEAST: Final = 5
_LONGEST_S: Final = 2.0


def milliseconds(calls: Sequence[Callable[[], object]], enough_s: float) -> float:
    """The median CPU time of this process in calls, taken in turn and over again: at least five, and as many as fit
    into `enough_s`; fewer, at least one, once two seconds are over.

    CPU time, because other programs on the machine disturb it far less than the time by the clock; what is measured
    neither waits nor uses a second thread. Two more calls come first and only warm caches and buffers. No garbage is
    collected meanwhile.
    """
    gc.collect()
    gc.disable()
    try:
        spent: list[float] = []
        for number, call in enumerate(cycle(calls)):
            started = time.process_time()
            call()
            if number >= _WARM:
                spent.append(time.process_time() - started)
            if sum(spent) >= (enough_s if len(spent) >= _LEAST else _LONGEST_S):
                return 1000 * median(spent)
        raise ValueError("there is nothing to time")
    finally:
        gc.enable()


def in_rounds(figures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each figure over rounds, in each of which all are measured: what disturbs the machine for a while
    then hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(rounds):
        for name, figure in figures.items():
            found[name].append(figure())
    return {name: median(values) for name, values in found.items()}
