from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from serving.user.batches import Batches, BatchSettings


class Clock:
    """Seconds that a test moves by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def queue(run, spawn, clock=None, **settings) -> Batches[tuple[str, int]]:
    """Batches of (kind, number) jobs."""
    return Batches(run, lambda job: job[0], spawn, BatchSettings(**settings), clock or Clock())


def test_an_idle_queue_runs_a_job_at_once_and_alone() -> None:
    """Nothing waits for a batch to fill: a job that finds nobody running starts its own run."""
    ran: list[list] = []
    batches = queue(ran.append, lambda start: start())
    for number in range(3):
        assert batches.add(("a", number))
    assert ran == [[("a", 0)], [("a", 1)], [("a", 2)]]


def test_what_queues_behind_a_run_goes_together_next() -> None:
    """Jobs that come during a run form the next batches, of the gate's size, in the order they came."""
    ran: list[list[int]] = []

    def run(jobs) -> None:
        if not ran:
            for number in range(1, 8):
                batches.add(("a", number))
        ran.append([number for _, number in jobs])

    batches = queue(run, lambda start: start(), most=4)
    batches.add(("a", 0))
    assert ran == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_batch_has_one_kind_and_overtakes_nobody_of_it() -> None:
    """Jobs of two model versions never share a run; each kind keeps its order."""
    ran: list[list] = []

    def run(jobs) -> None:
        if not ran:
            for number in range(1, 7):
                batches.add(("ab"[number % 2], number))
        ran.append(jobs)

    batches = queue(run, lambda start: start())
    batches.add(("a", 0))
    assert ran[1:] == [[("b", 1), ("b", 3), ("b", 5)], [("a", 2), ("a", 4), ("a", 6)]]


def test_the_time_gate_starts_a_second_run_where_one_is_allowed() -> None:
    """A job that waited longer than the gate does not wait for the run under way."""
    started: list[Callable] = []
    clock = Clock()
    batches = queue(lambda jobs: None, started.append, clock, runners=2, most_wait_s=1.0)
    batches.add(("a", 0))
    batches.add(("a", 1))
    assert len(started) == 1
    clock.now_s = 1.0
    batches.add(("a", 2))
    assert len(started) == 2
    clock.now_s = 9.0
    batches.add(("a", 3))
    assert len(started) == 2, "no more runs at a time than runners"


def test_a_full_queue_refuses() -> None:
    """The queue is bounded: a job beyond the bound is not taken, which is counted."""
    started: list[Callable] = []
    batches = queue(lambda jobs: None, started.append, most_queued=2)
    assert [batches.add(("a", number)) for number in range(4)] == [True, True, False, False]
    assert (batches.refused, len(batches)) == (2, 2)


@pytest.mark.parametrize("seed", range(300))
def test_every_job_runs_once_whatever_the_schedule(seed) -> None:
    """A seeded scheduler starts runs late and adds jobs before and during them: all run once, within the bounds."""
    rng, clock = random.Random(seed), Clock()
    started: list[Callable] = []
    ran: list[tuple[str, int]] = []
    numbers = iter(range(10_000))
    running = 0
    settings = {"most": rng.randint(1, 5), "runners": rng.randint(1, 3), "most_wait_s": rng.choice([0.0, 1.0, 5.0])}

    def add_some() -> None:
        for _ in range(rng.randint(0, 4)):
            clock.now_s += rng.random()
            assert batches.add((rng.choice("ab"), next(numbers)))

    def run(jobs) -> None:
        nonlocal running
        running += 1
        assert running <= settings["runners"]
        assert 1 <= len(jobs) <= settings["most"]
        assert len({kind for kind, _ in jobs}) == 1
        if len(ran) < 200:
            add_some()
            if started and rng.random() < 0.5:
                started.pop(rng.randrange(len(started)))()  # another run, inside this one's time
        ran.extend(jobs)
        running -= 1

    batches = queue(run, started.append, clock, **settings)
    for _ in range(20):
        add_some()
        if started and rng.random() < 0.7:
            started.pop(rng.randrange(len(started)))()
    while started:
        started.pop(rng.randrange(len(started)))()
    assert sorted(number for _, number in ran) == list(range(next(numbers)))
    assert len(batches) == 0
    batches.add(("a", next(numbers)))
    assert len(started) == 1, "idle again: the next job starts a run"
