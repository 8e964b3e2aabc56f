from __future__ import annotations

import threading

import pytest

from producers.pace import Pace, parse_speed
from schemas.errors import BadInput


class _Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def test_events_are_due_by_event_time() -> None:
    """At 10x, events a minute apart are six seconds apart; late ones are not waited for."""
    clock = _Clock()
    pace = Pace(10.0, threading.Event(), clock, clock.sleep)
    assert not pace.started
    for at_ms, due_s in [(0, 100.0), (60_000, 106.0), (30_000, 106.0), (120_000, 112.0)]:
        pace.wait(at_ms)
        assert clock.now_s == pytest.approx(due_s) and pace.started


def test_max_never_waits_and_a_stop_ends_a_wait() -> None:
    """`max` has no clock, and a stop that is asked for during a wait ends it."""
    clock, stop = _Clock(), threading.Event()
    Pace(None, stop, clock, clock.sleep).wait(10**12)
    assert clock.now_s == 100.0

    def sleep_and_stop(seconds: float) -> None:
        clock.sleep(seconds)
        stop.set()

    pace = Pace(1.0, stop, clock, sleep_and_stop)
    pace.wait(0)
    pace.wait(10**12)
    assert clock.now_s < 101.0


def test_speeds() -> None:
    """A speed is max or a positive number of times."""
    assert parse_speed("max") is None and parse_speed("10x") == 10.0 and parse_speed("0.5") == 0.5
    for text in ("fast", "0x", "-1x", "inf", "nanx"):
        with pytest.raises(BadInput, match="--speed"):
            parse_speed(text)
