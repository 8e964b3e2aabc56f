"""Computed user phases, kept in bounded memory: one entry a user and model version, least recently used first out.

An entry says what it was computed from (its *stamp*: the applied offset of the user's row, the time it was advanced to,
how many behaviours were asked for). It answers while a request would compute the same; otherwise it is what the
request falls back on when the new one comes too late. So the fallback costs no memory of its own, and a user who acts
often does not fill the cache with his past.

A miss opens a *flight*: one computation that every request of the same stamp waits for, however many come meanwhile.

Item vectors that change do not change a user's row; `ttl_s` bounds how old the vectors behind an entry may be. Each
entry's own is up to `jitter` shorter, or entries made together (after a start, or a new version) would all expire
together.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from cachetools import LRUCache

__all__ = ["ENTRY_BYTES", "Claim", "Failed", "Sized", "Stamp", "StateKey", "UserStates"]

#: An allowance for the Python objects around an entry's arrays.
ENTRY_BYTES: Final = 1024


class Sized(Protocol):
    """What can be kept."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""


State = TypeVar("State", bound=Sized)


class StateKey(NamedTuple):
    """Whose entry it is. States of different versions never meet: the version is part of the key."""

    version_tag: int
    user_id: int


class Stamp(NamedTuple):
    """What an entry was computed from."""

    row_offset: int  #: of the last user event in the row
    at_ms: int  #: the time it was advanced to
    behaviours: int  #: asked for


class Failed(NamedTuple):
    """A computation that gave no state, and why: what the flight's requests get instead."""

    reason: str


class _Entry(Generic[State]):
    __slots__ = ("expires_s", "stamp", "state")

    def __init__(self, stamp: Stamp, state: State, expires_s: float) -> None:
        self.stamp, self.state, self.expires_s = stamp, state, expires_s


@dataclass
class Claim(Generic[State]):
    """What a request gets: a state at once, or a flight to wait for, which it has to `settle` where it is `mine`."""

    key: StateKey
    stamp: Stamp
    state: State | None = None
    flight: Future[State | Failed] | None = None
    mine: bool = False


class UserStates(Generic[State]):
    """The cache. Any thread may call it; no call waits for a computation."""

    def __init__(
        self,
        most_bytes: int,
        ttl_s: float = 60.0,
        jitter: float = 0.2,
        monotonic_s: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.hits = 0
        self.misses = 0  #: computations begun
        self.shared = 0  #: requests that joined a flight of another
        self.evictions = 0
        self._ttl_s = ttl_s
        self._jitter = jitter
        self._now_s = monotonic_s
        self._chance = chance
        self._lock = threading.Lock()
        self._kept: Any = LRUCache(most_bytes, getsizeof=lambda entry: entry.state.nbytes + ENTRY_BYTES)
        self._flights: dict[tuple[StateKey, Stamp], Future[State | Failed]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self._kept.currsize)

    @property
    def most_bytes(self) -> int:
        """The bound on `nbytes`."""
        return int(self._kept.maxsize)

    def claim(self, key: StateKey, stamp: Stamp) -> Claim[State]:
        """The user's state as of `stamp`, or a flight to it. Whoever gets one that is `mine` must `settle` it."""
        with self._lock:
            entry: _Entry[State] | None = self._kept.get(key)
            if entry is not None and entry.stamp == stamp and self._now_s() < entry.expires_s:
                self.hits += 1
                return Claim(key, stamp, entry.state)
            flight = self._flights.get((key, stamp))
            if flight is not None:
                self.shared += 1
                return Claim(key, stamp, None, flight)
            self.misses += 1
            flight = self._flights[key, stamp] = Future()
            return Claim(key, stamp, None, flight, mine=True)

    def settle(self, claim: Claim[State], outcome: State | Failed) -> None:
        """End a flight: keep the state, where there is one, and hand the outcome to everybody who waits for it."""
        with self._lock:
            flight = self._flights.pop((claim.key, claim.stamp))
            if not isinstance(outcome, Failed):
                self._keep(claim.key, claim.stamp, outcome)
        flight.set_result(outcome)  # outside the lock: it runs the waiters' callbacks

    def last(self, key: StateKey) -> State | None:
        """The user's newest state of this version, however old; None where none is held."""
        with self._lock:
            entry: _Entry[State] | None = self._kept.get(key)
            return None if entry is None else entry.state

    def keep_versions(self, tags: frozenset[int]) -> None:
        """Drop the entries of every other version."""
        with self._lock:
            for key in [key for key in self._kept if key.version_tag not in tags]:
                del self._kept[key]

    def _keep(self, key: StateKey, stamp: Stamp, state: State) -> None:
        old: _Entry[State] | None = self._kept.get(key)
        # A flight that took longer than a later one's brings a row that is no longer the user's.
        if old is not None and old.stamp.row_offset > stamp.row_offset:
            return
        size, before = state.nbytes + ENTRY_BYTES, len(self._kept) - (old is not None)
        if size > self._kept.maxsize:
            return
        lifetime_s = self._ttl_s * (1 - self._jitter * self._chance())
        self._kept[key] = _Entry(stamp, state, self._now_s() + lifetime_s)
        self.evictions += before + 1 - len(self._kept)
