"""How long a request may still take: one budget that its stages share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

__all__ = ["NEVER", "Deadline"]


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock; without one (`inf`) a request waits for what it needs."""

    at_s: float = inf
    monotonic_s: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, budget_ms: float | None, monotonic_s: Callable[[], float] = time.monotonic) -> Deadline:
        """The deadline of a request that arrives now with so many milliseconds; None is no deadline."""
        return cls(inf if budget_ms is None else monotonic_s() + budget_ms / 1000, monotonic_s)

    def left_ms(self) -> float:
        """Milliseconds until it, 0 once it has passed, `inf` without one."""
        return max(0.0, (self.at_s - self.monotonic_s()) * 1000)

    def wait_s(self, reserve_ms: float = 0.0) -> float | None:
        """Seconds that may be waited so that `reserve_ms` stay for what comes after; None is any time."""
        return None if self.at_s == inf else max(0.0, (self.left_ms() - reserve_ms) / 1000)


#: A request that may take any time.
NEVER: Final = Deadline()
