"""The user phase of requests: begun the moment a request arrives, shared, batched, cached, and never waited for longer
than a request can afford.

::

    begin ──cached──────────────► state (cached)
      └─flight─batch─compute──► state (computed)
            │ late or failed
            ├─► the user's last state of this version (last_cached)
            ├─► the user's windows alone, no behaviours (windows_only)
            └─► the state of a user without a row (default), which always exists

A state is of one version and says so; one of another version is refused, whatever it was found under.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from domain.windows import WINDOWS
from schemas.errors import AifError
from schemas.records import UserHead
from serving.joining import one_version
from serving.ranking.deadline import Deadline
from serving.user.batches import Batches, BatchSettings
from serving.user.user_states import Failed, Sized, Stamp, StateKey, UserStates

__all__ = ["Asked", "Compute", "How", "Pending", "UserSide", "Versioned", "state_time"]

_log = logging.getLogger(__name__)

#: Versions whose states are kept: the live one, the one that comes, and the one before, for a roll-back.
_MOST_VERSIONS: Final = 3
_TILE_MS: Final = min(window.tile_ms for window in WINDOWS)


class How(StrEnum):
    """Where a request's user state came from, best first; the last three are degraded."""

    COMPUTED = "computed"
    CACHED = "cached"
    LAST_CACHED = "last_cached"
    WINDOWS_ONLY = "windows_only"
    DEFAULT = "default"

    @property
    def code(self) -> int:
        """Its number in binary answers: 0 to 4 in the order above."""
        return list(How).index(self)


class Versioned(Sized, Protocol):
    """A state that knows its version."""

    @property
    def version_tag(self) -> int:
        """The version whose model made it."""


class HasTag(Protocol):
    """A model version, as far as the user side needs to know it."""

    @property
    def tag(self) -> int:
        """The number that its rows carry."""


State = TypeVar("State", bound=Versioned)
Model = TypeVar("Model", bound=HasTag)


class Asked(NamedTuple):
    """A user phase to run: whose, as of when, from how many behaviours (0: windows alone)."""

    user_id: int
    head: UserHead | None
    at_ms: int
    behaviours: int


#: Runs the user phase of one version for several users; raises for all where it raises for one.
Compute = Callable[[Model, Sequence[Asked]], Sequence[State]]


@dataclass
class Pending(Generic[Model, State]):
    """A request's user phase under way, pinned to one version."""

    version: Model
    asked: Asked
    deadline: Deadline
    state: State | None = None  #: once it is settled
    how: How | None = None
    flight: Future[State | Failed] | None = None

    @property
    def key(self) -> StateKey:
        """Whose states of which version may answer it."""
        return StateKey(self.version.tag, self.asked.user_id)

    @property
    def is_ready(self) -> bool:
        """Whether the state is there, so that nothing of the user is left to compute."""
        flight = self.flight
        return self.state is not None or (
            flight is not None and flight.done() and not isinstance(flight.result(), Failed)
        )


class _Job(NamedTuple, Generic[Model]):
    version: Model
    asked: Asked
    done: Callable[[object], None]


def state_time(at_ms: int, exact: bool, newest_event_time_ms: int) -> int:
    """The time that a user's state is advanced to for a request at `at_ms`.

    A request that names its time (`exact`), or lies before the row's newest event, gets that very time. For any other
    it is the start of the smallest tile around it, or the newest event inside: every window and every behaviour is
    then as at `at_ms`, ages are less than a tile younger, and all requests of that tile share one state.
    """
    if exact or at_ms < newest_event_time_ms:
        return at_ms
    return max(at_ms - at_ms % _TILE_MS, newest_event_time_ms)


class UserSide(Generic[Model, State]):
    """User phases of all requests of one process. Any thread, and the event loop, may call it."""

    def __init__(
        self,
        compute: Compute[Model, State],
        states: UserStates[State],
        spawn: Callable[[Callable[[], None]], object],
        settings: BatchSettings | None = None,
    ) -> None:
        """`spawn` starts a batch's run: an executor's submit."""
        self.states = states
        self.batches: Batches[_Job[Model]] = Batches(self._run, lambda job: job.version.tag, spawn, settings)
        self.ways: Counter[How] = Counter()  #: how requests got their states
        self.failures: Counter[str] = Counter()  #: by the error's class
        self._compute = compute
        self._lock = threading.Lock()
        self._defaults: dict[int, State] = {}  #: of the last versions, newest last
        self._in_use: frozenset[int] = frozenset()

    def begin(self, version: Model, asked: Asked, deadline: Deadline, fresh: bool = False) -> Pending[Model, State]:
        """Start what the request needs of its user, or find it done; waits for nothing.

        A `fresh` one is computed here and now, beside cache and batches.
        """
        default = self.default(version)
        pending: Pending[Model, State] = Pending(version, asked, deadline)
        if asked.head is None:
            return self._settled(pending, default, How.DEFAULT)
        if fresh:
            try:
                state = self._compute(version, [asked])[0]
            except AifError as error:
                self._failed(error)
                return pending
            return self._settled(pending, state, How.COMPUTED)
        stamp = Stamp(asked.head["source_offset"], asked.at_ms, asked.behaviours)
        claim = self.states.claim(pending.key, stamp)
        if claim.state is not None:
            return self._settled(pending, claim.state, How.CACHED)
        pending.flight = claim.flight
        if claim.mine:

            def done(outcome: object) -> None:
                self.states.settle(claim, outcome)  # type: ignore[arg-type]  # jobs of both kinds share one queue

            if not self.batches.add(_Job(version, asked, done)):
                done(Failed("too many user phases wait"))
        return pending

    def wait(self, pending: Pending[Model, State], reserve_ms: float = 0.0) -> None:
        """Wait for the flight on this thread, so that `reserve_ms` of the deadline stay; then `state` is decided."""
        if pending.flight is not None and pending.state is None:
            with suppress(NotInTime):  # the ladder is for that
                pending.flight.result(pending.deadline.wait_s(reserve_ms))

    async def arrive(self, pending: Pending[Model, State], reserve_ms: float = 0.0) -> None:
        """The same on the event loop. Nobody's cancelled request ends a flight that others wait for."""
        if pending.flight is not None and pending.state is None and not pending.flight.done():
            wait_s = pending.deadline.wait_s(reserve_ms)
            await asyncio.wait([asyncio.wrap_future(pending.flight)], timeout=wait_s)

    def state(self, pending: Pending[Model, State], windows_ms: float = 0.0) -> tuple[State, How]:
        """The request's state: what its flight brought by now, else the best that the ladder has.

        `windows_ms` is what a user phase of windows alone takes: where less than that is left it is not tried.
        """
        if pending.state is None:
            outcome = pending.flight.result() if pending.flight is not None and pending.flight.done() else None
            if outcome is not None and not isinstance(outcome, Failed):
                self._settled(pending, outcome, How.COMPUTED)
            else:
                self._settled(pending, *self._degraded(pending, windows_ms))
        assert pending.state is not None and pending.how is not None
        return pending.state, pending.how

    def default(self, version: Model) -> State:
        """The state of users without a row: one a version, made when the version is first met."""
        found = self._defaults.get(version.tag)
        if found is not None:
            return found
        with self._lock:
            if version.tag not in self._defaults:
                self._defaults[version.tag] = self._compute(version, [Asked(0, None, 0, 0)])[0]
                idle = [tag for tag in self._defaults if tag not in self._in_use and tag != version.tag]
                for tag in idle[: max(0, len(self._defaults) - _MOST_VERSIONS)]:
                    del self._defaults[tag]
                self.states.keep_versions(frozenset(self._defaults))
            return self._defaults[version.tag]

    def use(self, tags: frozenset[int]) -> None:
        """Say which versions are in use: what is kept of others goes first, however new it is."""
        self._in_use = tags

    def _degraded(self, pending: Pending[Model, State], windows_ms: float) -> tuple[State, How]:
        if (last := self.states.last(pending.key)) is not None:
            return last, How.LAST_CACHED
        if pending.deadline.left_ms() > windows_ms:
            try:
                return self._compute(pending.version, [pending.asked._replace(behaviours=0)])[0], How.WINDOWS_ONLY
            except AifError as error:
                self._failed(error)
        return self.default(pending.version), How.DEFAULT

    def _settled(self, pending: Pending[Model, State], state: State, how: How) -> Pending[Model, State]:
        one_version("an answer", request=pending.version.tag, user=state.version_tag)
        pending.state, pending.how = state, how
        self.ways[how] += 1
        return pending

    def _run(self, jobs: list[_Job[Model]]) -> None:
        """One batch: what fails together is tried one by one, so that a user's bad row is his alone."""
        try:
            outcomes: list[object] = list(self._compute(jobs[0].version, [job.asked for job in jobs]))
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._run([job])
                return
            outcomes = [self._failed(error)]
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.done(outcome)

    def _failed(self, error: Exception) -> Failed:
        kind = type(error).__name__
        if not self.failures[kind]:
            _log.error("a user phase failed (%s: %s); its request degrades, further ones are counted", kind, error)
        self.failures[kind] += 1
        return Failed(f"{kind}: {error}")
