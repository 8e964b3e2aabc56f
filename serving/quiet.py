"""What keeps everything else in a server out of the way of its requests.

A request of two milliseconds meets whatever wakes up meanwhile: threads that follow the feeder, write metrics or make
retrieval's shelves, the feeder itself where it has no core of its own, the collection of garbage. None of that is in a
hurry, so none of it may take the processor, or the interpreter, from a request for long.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

__all__ = ["free_of_garbage", "quick_to_switch", "usable_cores", "yield_to_requests"]

#: Python's own default, 5 ms, is more than a request takes.
_SWITCH_S: Final = 0.0005


def yield_to_requests() -> None:
    """Of the calling thread and those that it starts: being woken up interrupts nobody. Its share of the time stays.

    Linux's SCHED_BATCH, for which no privilege is needed; elsewhere nothing.
    """
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def quick_to_switch() -> None:
    """A thread that waits for the interpreter gets it within half a millisecond."""
    sys.setswitchinterval(_SWITCH_S)


def free_of_garbage() -> None:
    """Never look again at the objects that there are, modules and compiled code for the most part, for garbage."""
    gc.collect()
    gc.freeze()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
