from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from serving.user.user_states import ENTRY_BYTES, Claim, Failed, Stamp, StateKey, UserStates

KEY, STAMP = StateKey(7, 1), Stamp(100, 60_000, 32)


@dataclass(frozen=True)
class State:
    """Something of a size."""

    of: tuple
    nbytes: int = 1000


class Clock:
    """Seconds that a test moves by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def states(entries: int = 10, **options) -> UserStates[State]:
    """A cache with room for so many entries of the usual size."""
    return UserStates(entries * (1000 + ENTRY_BYTES), **{"chance": lambda: 0.0, "monotonic_s": Clock(), **options})


def filled(cache: UserStates[State], key: StateKey, stamp: Stamp = STAMP, nbytes: int = 1000) -> State:
    """Compute what a miss asks for."""
    claim, state = cache.claim(key, stamp), State((key, stamp), nbytes)
    assert claim.mine
    cache.settle(claim, state)
    return state


def test_a_state_answers_its_own_stamp_until_something_of_it_changes() -> None:
    """The same row, time and behaviours hit; a newer row, another time or other behaviours are computed anew."""
    cache = states()
    state = filled(cache, KEY)
    assert cache.claim(KEY, STAMP).state is state
    for other in (STAMP._replace(row_offset=101), STAMP._replace(at_ms=120_000), STAMP._replace(behaviours=16)):
        assert cache.claim(KEY, other).mine
    assert cache.claim(StateKey(8, 1), STAMP).mine, "another version's state is no answer"
    assert (cache.hits, cache.misses) == (1, 5)


def test_a_miss_storm_is_one_computation_a_key() -> None:
    """1,000 requests for 50 users in a cold cache: 50 computations, and everybody gets his user's state."""
    cache, rng = states(100), random.Random(1)
    users = [StateKey(7, rng.randrange(50)) for _ in range(950)] + [StateKey(7, user) for user in range(50)]
    claims = [cache.claim(key, STAMP) for key in users]
    mine = [claim for claim in claims if claim.mine]
    for claim in mine:
        cache.settle(claim, State((claim.key, claim.stamp)))
    assert len(mine) == cache.misses == 50
    assert cache.shared == 950
    for claim in claims:
        assert claim.flight is not None
        assert claim.flight.result(0) == State((claim.key, STAMP))


def test_bytes_are_bounded_and_the_least_recently_used_go() -> None:
    """What is held never exceeds the bound; reading an entry keeps it; what fits nowhere is not kept."""
    cache = states(3)
    keys = [StateKey(7, user) for user in range(5)]
    for key in keys[:3]:
        filled(cache, key)
    cache.claim(keys[0], STAMP)
    filled(cache, keys[3])
    assert [cache.last(key) is not None for key in keys] == [True, False, True, True, False]
    assert cache.evictions == 1
    filled(cache, keys[4], nbytes=2 * (1000 + ENTRY_BYTES))
    assert cache.nbytes <= cache.most_bytes
    filled(cache, keys[1], nbytes=cache.most_bytes)
    assert cache.last(keys[1]) is None


def test_an_expired_state_is_computed_anew_and_still_falls_back() -> None:
    """Past its time to live an entry answers no more; it stays the user's last state until the new one is there."""
    clock = Clock()
    cache = states(ttl_s=60.0, monotonic_s=clock)
    state = filled(cache, KEY)
    clock.now_s = 59.9
    assert cache.claim(KEY, STAMP).state is state
    clock.now_s = 60.0
    claim = cache.claim(KEY, STAMP)
    assert claim.mine
    assert cache.last(KEY) is state


def test_entries_made_together_do_not_expire_together() -> None:
    """Times to live differ by up to the jitter, so that a start does not come back as a storm of misses."""
    clock = Clock()
    cache = states(1000, ttl_s=100.0, jitter=0.2, monotonic_s=clock, chance=random.Random(3).random)
    for user in range(500):
        filled(cache, StateKey(7, user))
    clock.now_s = 79.9
    assert not any(cache.claim(StateKey(7, user), STAMP).mine for user in range(500))
    clock.now_s = 90.0
    assert 200 < sum(cache.claim(StateKey(7, user), STAMP).mine for user in range(500)) < 300


def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    """A computation that fails ends its flight with the reason; the next request tries again."""
    cache = states()
    first, second = cache.claim(KEY, STAMP), cache.claim(KEY, STAMP)
    cache.settle(first, Failed("no row"))
    assert second.flight is not None
    assert second.flight.result(0) == Failed("no row")
    assert cache.claim(KEY, STAMP).mine


def test_a_late_flight_does_not_replace_a_newer_row() -> None:
    """Of two flights of one user the one of the older row, ending last, is handed out but not kept."""
    cache = states()
    old, new = cache.claim(KEY, STAMP), cache.claim(KEY, STAMP._replace(row_offset=200))
    cache.settle(new, State(("new",)))
    cache.settle(old, State(("old",)))
    assert cache.last(KEY) == State(("new",))
    assert old.flight is not None
    assert old.flight.result(0) == State(("old",))


def test_versions_that_left_take_their_states_along() -> None:
    """Only entries of the versions in use stay."""
    cache = states()
    filled(cache, KEY)
    kept = filled(cache, StateKey(8, 1))
    cache.keep_versions(frozenset({8}))
    assert cache.last(KEY) is None
    assert cache.last(StateKey(8, 1)) is kept
    assert cache.nbytes == 1000 + ENTRY_BYTES


@pytest.mark.parametrize("seed", range(200))
def test_whatever_the_schedule_answers_are_right_and_computed_once(seed) -> None:
    """Claims, ends of flights, evictions and expiries in a seeded order: an answer is of its key and stamp, no stamp
    is computed twice at a time, and the bound holds."""
    rng, clock = random.Random(seed), Clock()
    cache = states(4, ttl_s=20.0, monotonic_s=clock, chance=rng.random)
    flying: list[Claim[State]] = []
    waiting: list[Claim[State]] = []
    for _ in range(300):
        clock.now_s += rng.random()
        if flying and rng.random() < 0.4:
            claim = flying.pop(rng.randrange(len(flying)))
            failed = rng.random() < 0.2
            cache.settle(claim, Failed("chance") if failed else State((claim.key, claim.stamp), rng.randint(1, 2000)))
        else:
            key, stamp = StateKey(rng.randrange(2), rng.randrange(4)), Stamp(rng.randrange(3), 0, rng.choice([16, 32]))
            claim = cache.claim(key, stamp)
            if claim.state is not None:
                assert claim.state.of == (key, stamp)
            else:
                waiting.append(claim)
                flying.extend([claim] if claim.mine else [])
        assert cache.nbytes <= cache.most_bytes
        assert max(Counter((each.key, each.stamp) for each in flying).values(), default=1) == 1
    for claim in flying:
        cache.settle(claim, State((claim.key, claim.stamp)))
    for claim in waiting:
        assert claim.flight is not None
        outcome = claim.flight.result(0)
        assert isinstance(outcome, Failed) or outcome.of == (claim.key, claim.stamp)
