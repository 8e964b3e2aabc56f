from __future__ import annotations

import gc
import os
import sys
import threading
import weakref

from serving import quiet


def test_only_the_thread_that_asks_steps_back() -> None:
    """A thread that yields interrupts nobody by waking up, and those that it starts neither; the others stay."""
    found: list[int] = []

    def beside() -> None:
        quiet.yield_to_requests()
        found.append(os.sched_getscheduler(0))
        child = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
        child.start()
        child.join()

    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()
    assert found == [os.SCHED_BATCH, os.SCHED_BATCH]
    assert os.sched_getscheduler(0) != os.SCHED_BATCH


def test_the_interpreter_changes_hands_faster_than_a_request(monkeypatch) -> None:
    """A waiting thread gets the interpreter within half a millisecond."""
    asked: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", asked.append)
    quiet.quick_to_switch()
    assert asked == [0.0005]


def test_what_is_there_is_no_garbage_and_what_comes_may_be() -> None:
    """Objects of the start are never looked at again; cycles made later are collected."""

    class Knot:
        """A cycle."""

        def __init__(self) -> None:
            self.me = self

    try:
        quiet.free_of_garbage()
        assert gc.get_freeze_count() > 1000
        knot = weakref.ref(Knot())
        gc.collect()
        assert knot() is None
    finally:
        gc.unfreeze()


def test_usable_cores_are_those_of_this_process() -> None:
    """A process that is confined counts the cores that it may use."""
    assert 1 <= quiet.usable_cores() <= (os.cpu_count() or 1)
