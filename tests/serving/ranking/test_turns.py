from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from schemas.errors import Unavailable
from serving.ranking.deadline import NEVER, Deadline
from serving.ranking.turns import SHORT_MS, Turns


class Clock:
    """A clock that stands still but for what scoring takes."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """One thread that scores."""
    with ThreadPoolExecutor(1, thread_name_prefix="scoring") as executor:
        yield executor


def where() -> str:
    """Which thread runs this."""
    return threading.current_thread().name.partition("_")[0]


def run(story: Callable[[], Awaitable[None]]) -> None:
    """The story on an event loop."""
    asyncio.run(story())  # type: ignore[arg-type]


def test_a_short_request_that_nobody_is_before_is_scored_where_it_arrived(threads) -> None:
    """What is short and first stays on the event loop; what is long, of unknown cost or not ready goes to a thread."""

    async def story() -> None:
        turns, loop = Turns(threads, clock_s=Clock()), where()
        assert await turns.run(SHORT_MS, True, where) == loop
        for cost_ms, short in ((SHORT_MS + 0.1, True), (None, True), (0.1, False)):
            assert await turns.run(cost_ms, short, where) == "scoring"
        assert (turns.on_loop, turns.on_threads, turns.under_way) == (1, 3, 0)

    run(story)


def test_the_event_loop_keeps_half_of_its_time(threads) -> None:
    """After scoring for 2 ms the event loop scores nothing for 2 ms, however short."""
    clock = Clock()

    def scored() -> str:
        clock.now_s += 0.002
        return where()

    async def story() -> None:
        turns, loop = Turns(threads, clock_s=clock), where()
        assert await turns.run(1.0, True, scored) == loop
        assert await turns.run(1.0, True, where) == "scoring"
        clock.now_s += 0.0021
        assert await turns.run(1.0, True, where) == loop

    run(story)


def test_nobody_overtakes_what_waits_for_a_thread(threads) -> None:
    """While one request is under way on a thread, a short one that comes later queues behind it."""
    may_go_on, order = threading.Event(), []

    def slow() -> None:
        assert may_go_on.wait(10)
        order.append("slow")

    async def story() -> None:
        turns = Turns(threads)
        first = asyncio.create_task(turns.run(5.0, True, slow))
        await asyncio.sleep(0)
        second = asyncio.create_task(turns.run(0.1, True, lambda: order.append("short")))
        await asyncio.sleep(0.01)
        assert (order, turns.under_way) == ([], 2), "the event loop goes on meanwhile"
        may_go_on.set()
        await asyncio.gather(first, second)
        assert (order, turns.wait_ms) == (["slow", "short"], 0.0)

    run(story)


def test_whose_turn_would_come_too_late_is_told_at_once(threads) -> None:
    """With 30 ms of work before it a request of 20 ms is refused, one of 40 ms or without a deadline is not."""
    may_go_on = threading.Event()

    async def story() -> None:
        turns = Turns(threads)
        turns.require_in_time(Deadline(0.0, lambda: 0.0))
        before = [asyncio.create_task(turns.run(each, True, lambda: may_go_on.wait(10))) for each in (10.0, 20.0)]
        await asyncio.sleep(0)
        assert turns.wait_ms == 30
        for deadline in (NEVER, Deadline(0.040, lambda: 0.0)):
            turns.require_in_time(deadline)
        with pytest.raises(Unavailable, match="2 requests are before this one for about 30 ms, its deadline leaves 20"):
            turns.require_in_time(Deadline(0.020, lambda: 0.0))
        assert turns.refused == 1
        may_go_on.set()
        await asyncio.gather(*before)

    run(story)


def test_work_before_a_request_is_shared_by_the_threads() -> None:
    """Two threads halve the wait, and while one of them is free there is none."""
    may_go_on = threading.Event()

    async def story(turns: Turns) -> None:
        before = []
        for expected in (0.0, 0.0, 20.0, 30.0):
            assert turns.wait_ms == expected
            before.append(asyncio.create_task(turns.run(20.0, True, lambda: may_go_on.wait(10))))
            await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.gather(*before)

    with ThreadPoolExecutor(2) as executor:
        asyncio.run(story(Turns(executor, 2)))


def test_who_leaves_takes_his_place_with_him(threads) -> None:
    """A request given up while it waits is never scored and nobody waits for it."""
    may_go_on, scored = threading.Event(), []

    async def story() -> None:
        turns = Turns(threads)
        first = asyncio.create_task(turns.run(5.0, True, lambda: may_go_on.wait(10)))
        await asyncio.sleep(0)
        left = asyncio.create_task(turns.run(50.0, True, lambda: scored.append("left")))
        await asyncio.sleep(0)
        assert turns.wait_ms == 55
        left.cancel()
        await asyncio.sleep(0)
        assert turns.wait_ms == 5
        may_go_on.set()
        await first

    run(story)
    assert scored == []


def test_what_fails_leaves_nothing_behind(threads) -> None:
    """An error reaches its request, from either place, and the next one finds the queue empty."""

    def fails() -> None:
        raise ValueError("no")

    async def story() -> None:
        turns = Turns(threads, clock_s=Clock())
        for cost_ms in (1.0, 9.0):
            with pytest.raises(ValueError, match="no"):
                await turns.run(cost_ms, True, fails)
        assert (turns.under_way, turns.wait_ms) == (0, 0.0)

    run(story)
