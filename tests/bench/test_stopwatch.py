"""Times and medians."""

from __future__ import annotations

import gc
from itertools import accumulate, chain, cycle

import pytest

from bench.stopwatch import in_rounds, milliseconds


def test_the_first_calls_are_not_timed_and_garbage_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls come before the clock counts; all come in turn, and none of them meets a collection."""
    order: list[str] = []
    seconds = accumulate(chain([0, 100], cycle([0, 0.25])))
    monkeypatch.setattr("bench.stopwatch.time.process_time", lambda: next(seconds))

    def call(name: str) -> None:
        assert not gc.isenabled()
        order.append(name)

    assert milliseconds([lambda: call("a"), lambda: call("b")], 1.0) == 250
    assert order == ["a", "b", "a", "b", "a", "b", "a"]
    assert gc.isenabled()


def test_nothing_to_time_is_an_error() -> None:
    """No call at all is refused, and the collector is on again."""
    with pytest.raises(ValueError, match="nothing"):
        milliseconds([], 1.0)
    assert gc.isenabled()


def test_rounds_take_turns_and_medians() -> None:
    """Each round measures every figure once, and the median over rounds stands for it."""
    order: list[str] = []
    values = {"a": iter([9.0, 1.0, 2.0]), "b": iter([5.0, 5.0, 100.0])}

    def figure(name: str) -> float:
        order.append(name)
        return next(values[name])

    assert in_rounds({name: (lambda name=name: figure(name)) for name in values}, 3) == {"a": 2.0, "b": 5.0}
    assert order == ["a", "b"] * 3
