"""How fast a replay goes: as the log went, some times faster, or as fast as it can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from schemas.errors import BadInput

__all__ = ["Pace", "parse_speed"]

#: Longest sleep at once, so that a stop is heard soon.
_NAP_S = 0.2


def parse_speed(text: str) -> float | None:
    """`max` is None, `10x` or `10` is 10.0. Raises BadInput."""
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise BadInput(f"--speed must be max or a number of times such as 1x or 10x, not {text!r}")
    return speed


class Pace:
    """Holds events back until their time has come on a clock that runs `speed` times as fast as the wall's.

    The clock starts with the first time it is asked about. `clock` gives seconds, `sleep` takes them.
    """

    def __init__(
        self,
        speed: float | None,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._speed = speed
        self._stop = stop
        self._clock = clock
        self._sleep = sleep or stop.wait
        self._start: tuple[float, int] | None = None

    @property
    def started(self) -> bool:
        """Whether the clock runs."""
        return self._start is not None

    def ahead_s(self, event_time_ms: int) -> float:
        """Seconds until this event is due; 0 or less when it is."""
        if self._speed is None:
            return 0.0
        if self._start is None:
            self._start = (self._clock(), event_time_ms)
        started_s, first_ms = self._start
        return started_s + (event_time_ms - first_ms) / 1000 / self._speed - self._clock()

    def wait(self, event_time_ms: int) -> None:
        """Return when the event is due, or when a stop was asked for."""
        while not self._stop.is_set() and (ahead_s := self.ahead_s(event_time_ms)) > 0:
            self._sleep(min(ahead_s, _NAP_S))
