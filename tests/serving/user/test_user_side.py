from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from schemas.errors import Corrupt, VersionMismatch
from serving.joining import MISMATCHES
from serving.ranking.deadline import Deadline
from serving.user.batches import BatchSettings
from serving.user.user_side import Asked, How, Pending, UserSide, state_time
from serving.user.user_states import UserStates

OLD, NEW = SimpleNamespace(tag=7), SimpleNamespace(tag=8)


@dataclass(frozen=True)
class State:
    """What a user phase would have made."""

    version_tag: int
    asked: Asked
    nbytes: int = 100


class Phase:
    """A user phase that counts its runs and fails for chosen users."""

    def __init__(self, failing: Sequence[int] = (), without_windows: bool = False) -> None:
        self.runs: list[list[Asked]] = []
        self._failing, self._without_windows = failing, without_windows

    def __call__(self, version, asked: Sequence[Asked]) -> list[State]:
        """One batch."""
        for each in asked:
            if each.user_id in self._failing and (each.behaviours or self._without_windows):
                raise Corrupt(f"user {each.user_id}")
        self.runs.append(list(asked))
        return [State(version.tag, each) for each in asked]

    @property
    def computed(self) -> list[Asked]:
        """Every user phase run, but those of users without a row."""
        return [each for run in self.runs for each in run if each.head is not None]


def side(phase, spawn=None, entries: int = 100, **settings) -> UserSide:
    """A user side whose batches run at once, unless the test starts them."""
    return UserSide(phase, UserStates(entries * 2000), spawn or (lambda start: start()), BatchSettings(**settings))


def asked(user: int, offset: int = 1, at_ms: int = 0, behaviours: int = 32) -> Asked:
    """A user phase of a user whose row ends at an offset."""
    return Asked(user, {"source_offset": offset}, at_ms, behaviours)  # type: ignore[typeddict-item]


def answer(users: UserSide, version, wanted: Asked, left_s: float | None = None, windows_ms: float = 0.0) -> Pending:
    """One request: begin, wait as long as its deadline allows, take the state."""
    deadline = Deadline() if left_s is None else Deadline(left_s, lambda: 0.0)
    pending = users.begin(version, wanted, deadline)
    users.wait(pending)
    users.state(pending, windows_ms)
    return pending


def test_a_state_is_computed_then_cached() -> None:
    """The first request computes, an equal one hits; a newer row computes again."""
    phase = Phase()
    users = side(phase)
    assert [answer(users, OLD, asked(1, offset)).how for offset in (1, 1, 2)] == ["computed", "cached", "computed"]
    assert len(phase.computed) == 2


def test_users_without_a_row_share_one_state_a_version() -> None:
    """Unknown users cost one user phase a version, however many there are, and no room in the cache."""
    phase = Phase()
    users = side(phase)
    states = {id(answer(users, version, Asked(user, None, 0, 32)).state) for user in range(9) for version in (OLD, NEW)}
    assert len(states) == len(phase.runs) == 2
    assert users.states.nbytes == 0


def test_the_ladder_goes_down_one_rung_at_a_time() -> None:
    """A user phase that does not come in time: the last state of the version, else windows alone, else the default."""
    phase, waiting = Phase(), []
    users = side(phase, waiting.append)
    ready = side(Phase())
    first = answer(users, OLD, asked(1), left_s=1.0)
    assert (first.how, first.state.asked.behaviours) == (How.WINDOWS_ONLY, 0)
    broke = answer(users, OLD, asked(2), left_s=0.0)
    assert (broke.how, broke.state.asked.head) == (How.DEFAULT, None)
    assert answer(users, OLD, asked(2), left_s=0.001, windows_ms=5.0).how == How.DEFAULT
    for start in waiting:
        start()
    assert answer(users, OLD, asked(1, offset=2), left_s=0.0).how == How.LAST_CACHED
    assert answer(ready, OLD, asked(1), left_s=0.0).how == How.COMPUTED, "what is there in time is taken"


def test_a_state_of_another_version_is_no_fallback() -> None:
    """The last state of the old version does not answer a request of the new one."""
    users = side(Phase())
    answer(users, OLD, asked(1))
    users.batches._spawn = lambda start: None
    assert answer(users, NEW, asked(1), left_s=0.0).how == How.DEFAULT


def test_a_state_of_another_version_is_refused_and_counted() -> None:
    """Should the user phase ever hand out another version's state, the request fails instead of mixing."""
    users = side(lambda version, wanted: [State(NEW.tag if each.head else OLD.tag, each) for each in wanted])
    refused = MISMATCHES["an answer"]
    with pytest.raises(VersionMismatch, match="of version 0000000000000008"):
        answer(users, OLD, asked(1))
    assert MISMATCHES["an answer"] == refused + 1


def test_a_user_whose_row_is_bad_degrades_alone() -> None:
    """In a batch of three where one fails, the other two get their states, and the one its ladder."""
    phase, waiting = Phase(failing=[2]), []
    users = side(phase, waiting.append)
    pending = [users.begin(OLD, asked(user), Deadline()) for user in (1, 2, 3)]
    waiting[0]()
    assert [users.state(each)[1] for each in pending] == [How.COMPUTED, How.WINDOWS_ONLY, How.COMPUTED]
    assert users.failures == {"Corrupt": 1}
    phase = Phase(failing=[2], without_windows=True)
    assert answer(side(phase), OLD, asked(2)).how == How.DEFAULT


def test_a_full_queue_degrades_at_once() -> None:
    """Beyond the bound of waiting user phases a request does not wait at all."""
    users = side(Phase(), lambda start: None, most_queued=1)
    users.begin(OLD, asked(1), Deadline())
    assert answer(users, OLD, asked(2)).how == How.WINDOWS_ONLY


def test_a_storm_on_a_cold_cache_is_one_computation_a_user() -> None:
    """1,000 concurrent requests for 50 users, on an event loop and a thread: 50 user phases, in few batches."""
    phase = Phase()

    async def storm() -> list[Pending]:
        users = side(phase, executor.submit)

        async def request(user: int) -> Pending:
            pending = users.begin(OLD, asked(user), Deadline())
            await users.arrive(pending)
            users.state(pending)
            return pending

        return await asyncio.gather(*(request(number % 50) for number in range(1000)))

    with ThreadPoolExecutor(1) as executor:
        answers = asyncio.run(storm())
    assert len(phase.computed) == 50
    assert {each.how for each in answers} <= {How.COMPUTED, How.CACHED}
    assert all(each.state.asked.user_id == each.asked.user_id for each in answers)


def test_a_cancelled_request_does_not_end_the_flight_of_others() -> None:
    """A client that goes away while it waits leaves the computation to those who wait as well."""
    waiting: list[Callable[[], None]] = []

    async def run() -> How:
        users = side(Phase(), waiting.append)
        first, second = (users.begin(OLD, asked(1), Deadline()) for _ in range(2))
        gone = asyncio.create_task(users.arrive(first))
        stays = asyncio.create_task(users.arrive(second))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        waiting[0]()
        await stays
        return users.state(second)[1]

    assert asyncio.run(run()) == How.COMPUTED


def test_the_time_of_a_state_is_shared_by_a_tile() -> None:
    """Requests of now share the start of their minute, or the newest event in it; a named or past time is exact."""
    assert state_time(125_000, False, 10_000) == 120_000
    assert state_time(125_000, False, 123_000) == 123_000
    assert state_time(125_000, True, 10_000) == 125_000
    assert state_time(125_000, False, 126_000) == 125_000


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_schedule_every_request_is_answered_by_its_own_version(seed) -> None:
    """Requests of two versions, rows that move on, batches that start late, deadlines that pass, users that fail, all
    in a seeded order: each request gets a state of its user and version, no older than the ladder allows."""
    rng, waiting = random.Random(seed), []
    phase = Phase(failing=[3])
    users = side(phase, waiting.append, entries=4, most=3, runners=2, most_queued=6)
    clock, offsets = SimpleNamespace(now_s=0.0), dict.fromkeys(range(5), 1)
    open_requests: list[Pending] = []
    for _ in range(200):
        clock.now_s += rng.random()
        step = rng.random()
        if step < 0.5:
            user = rng.randrange(5)
            offsets[user] += rng.random() < 0.3
            wanted = asked(user, offsets[user], behaviours=rng.choice([16, 32])) if user else Asked(0, None, 0, 32)
            version = rng.choice([OLD, NEW])
            deadline = Deadline(clock.now_s + rng.random(), lambda: clock.now_s)
            open_requests.append(users.begin(version, wanted, deadline))
        elif step < 0.75 and waiting:
            waiting.pop(rng.randrange(len(waiting)))()
        elif open_requests:
            pending = open_requests.pop(rng.randrange(len(open_requests)))
            state, how = users.state(pending)
            assert state.version_tag == pending.version.tag
            assert how == How.DEFAULT or state.asked.user_id == pending.asked.user_id
            if how in (How.COMPUTED, How.CACHED):
                assert state.asked.head == pending.asked.head
                assert state.asked.behaviours == pending.asked.behaviours
                assert pending.asked.user_id != 3
    while waiting:
        waiting.pop()()
    for pending in open_requests:
        users.state(pending)
        done = pending.flight is None or pending.flight.done()
        assert done, "no flight is ever left open"
