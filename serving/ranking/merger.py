"""The merger: what a rank request does, in the order of its critical path.

::

    request ─► prepare ──────── user phase (user_side.py) ───────┐
                  └─► retrieval (retrieval.py) ─► candidates ────┴─► score ─► answer

`prepare` pins the request to the live version and starts its user phase the moment it arrives; retrieval runs
meanwhile, and `score` joins the two within the request's deadline. `rank` does all of it around a retriever; a caller
with a retrieval of its own prepares first and scores when it has candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from domain.quality import Quality, quality_for
from schemas.errors import DecodeError, Unavailable
from schemas.records import UserHead
from serving.joining import ItemRows
from serving.kernels import score_rows
from serving.ranking.deadline import NEVER, Deadline
from serving.ranking.retrieval import Retriever, Wanted
from serving.ranking.scorer import Ranked, Scorer
from serving.ranking.turns import Turns
from serving.rollout.versions import Version, Versions
from serving.stages import StageClock
from serving.tables.store import Store
from serving.user.calibration import Speeds
from serving.user.user_side import Asked, How, Pending, UserSide, state_time
from serving.user.user_state import StateMaker, UserState, history_of
from serving.user.user_states import UserStates

__all__ = ["MOST_CANDIDATES", "MOST_STATE_BYTES", "Ask", "Begun", "Merged", "Merger"]

#: Candidates of a request without a deadline or a number of its own.
MOST_CANDIDATES: Final = 10_000
#: Of computed user states: some thousands of users at the default sizes.
MOST_STATE_BYTES: Final = 256 << 20

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ask:
    """A request before its candidates are known."""

    user_id: int
    at_ms: int  #: "now" for windows and behaviours
    exact_time: bool = True  #: the request named it; else any request of the same minute may share the user's state
    fresh: bool = False  #: nothing from the cache: the user phase runs in `prepare`
    deadline: Deadline = NEVER
    behaviours: int | None = None  #: how many to read; None lets the deadline decide
    candidates: int | None = None  #: how many to score at most; None lets the deadline decide


@dataclass(frozen=True)
class Begun:
    """A request under way, pinned to one version."""

    ask: Ask
    user: str  #: known, unknown, or why the row cannot be read
    quality: Quality
    pending: Pending[Version, UserState]

    @property
    def version(self) -> Version:
        """The version that answers."""
        return self.pending.version


@dataclass(frozen=True)
class Merged:
    """A ranked request and how it came about."""

    candidates: npt.NDArray[np.int64]  #: [n] those that were scored; `ranked` is in their order
    ranked: Ranked
    user_phase: How
    quality: Quality


class Merger:
    """Rank requests of one process."""

    def __init__(
        self,
        store: Store,
        versions: Versions,
        users: UserSide[Version, UserState],
        turns: Turns | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        """`turns` says where a request is scored; None: on the event loop.

        Until `speeds` knows a version everything is read and scored whatever the deadline.
        """
        self.users = users
        self.speeds = speeds or Speeds()
        self.turns = turns or Turns()
        self._store = store
        self._versions = versions
        self._scorer = Scorer()

    @classmethod
    def of(
        cls,
        store: Store,
        versions: Versions,
        turns: Turns | None = None,
        phases: Executor | None = None,
        most_state_bytes: int = MOST_STATE_BYTES,
    ) -> Merger:
        """A merger with a user side of its own, whose batches run on `phases`, or without one where they are asked for.

        `most_state_bytes` bounds the computed user states that are kept.
        """

        def spawn(run: Callable[[], None]) -> None:
            if phases is None:
                run()
            else:
                phases.submit(run)

        users = UserSide(StateMaker(store.users), UserStates[UserState](most_state_bytes), spawn)
        return cls(store, versions, users, turns)

    def prepare(self, ask: Ask) -> Begun:
        """Start a request's user phase and return at once. Raises Unavailable while no version is live."""
        version = self._versions.live  # once: everything below is of this version
        if version is None:
            raise Unavailable("no model version is live: /readyz says why")
        head, user = self._head(ask.user_id)
        quality = self._quality(version, ask)
        newest_ms = head["newest_event_time_ms"] if head else 0
        at_ms = state_time(ask.at_ms, ask.exact_time, newest_ms)
        asked = Asked(ask.user_id, head, at_ms, quality.behaviours)
        pending = self.users.begin(version, asked, ask.deadline, ask.fresh)
        return Begun(ask, user, quality, pending)

    async def in_turn(
        self, begun: Begun, candidates: int, clock: StageClock, score: Callable[[], Result], short: bool = True
    ) -> Result:
        """What `score` returns, which scores so many candidates: called once the user phase is there, or there is only
        time left to score, and it is the request's turn. `short`: there is nothing but scoring to do.

        Raises Unavailable where that turn would come after the deadline.
        """
        turns, cost_ms = self.turns, self._scoring_ms(begun, candidates)
        with clock.time("inference"):
            await self.users.arrive(begun.pending, (cost_ms or 0.0) + turns.wait_ms)
        turns.require_in_time(begun.ask.deadline)
        return await turns.run(cost_ms, short and begun.pending.is_ready, score)

    async def score(self, begun: Begun, candidates: npt.NDArray[np.int64], top_k: int, clock: StageClock) -> Merged:
        """Join a request's user phase with its candidates (distinct, [n] int64), in its turn.

        Of more candidates than its quality says the first are scored. Raises Unavailable as `in_turn`.
        """
        scored = partial(self.score_here, begun, candidates, top_k, clock)
        return await self.in_turn(begun, len(candidates), clock, scored)

    def score_here(self, begun: Begun, candidates: npt.NDArray[np.int64], top_k: int, clock: StageClock) -> Merged:
        """The same in this thread: waits for the user phase as long as the deadline allows, then scores."""
        chosen = candidates[: begun.quality.candidates]
        reserve_ms = self._scoring_ms(begun, len(chosen)) or 0.0
        with clock.time("inference"):
            self.users.wait(begun.pending, reserve_ms)
            costs = self.speeds.of(begun.version)
            state, how = self.users.state(begun.pending, reserve_ms + (costs.user_phase_ms if costs else 0.0))
        ranked = self._scorer.rank(begun.version, state, chosen, top_k, clock)
        return Merged(chosen, ranked, how, begun.quality)

    async def rank(self, ask: Ask, retriever: Retriever, count: int, top_k: int, clock: StageClock) -> Merged:
        """Prepare, retrieve at most `count` candidates meanwhile, score them."""
        begun = self.prepare(ask)
        candidates = await self.candidates(begun, retriever, count, clock)
        return await self.score(begun, candidates, top_k, clock)

    async def candidates(
        self, begun: Begun, retriever: Retriever, count: int, clock: StageClock
    ) -> npt.NDArray[np.int64]:
        """At most `count` candidates of a retriever, and no more than the request's quality allows."""
        last = self.users.states.last(begun.pending.key)
        wanted = Wanted(
            begun.version, begun.pending.asked.head, last.taste if last else None, min(count, begun.quality.candidates)
        )
        with clock.time("feature_retrieval"):
            return await retriever.candidates(wanted)

    def history(self, asked: Asked) -> npt.NDArray[Any]:
        """The behaviours that a user phase reads, newest first ([L] BEHAVIOUR_DTYPE)."""
        return history_of(self._store.users, asked)[1]

    def popularity(self, version: Version, records: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Scores of records ([n] of the version's layout) for a user without a row ([n] float32)."""
        return score_rows(self.users.default(version).prepared, ItemRows.checked(version.tag, records))

    def _head(self, user_id: int) -> tuple[UserHead | None, str]:
        """The user's row, and whether there is one; one that this build cannot read counts as none."""
        try:
            head = self._store.users.head(user_id)
        except DecodeError as error:
            return None, error.reason
        return head, "unknown" if head is None else "known"

    def _quality(self, version: Version, ask: Ask) -> Quality:
        """What the request says, else what its deadline allows, never more than the model reads."""
        longest = version.sizes.long_behaviours
        most = Quality(min(ask.behaviours or longest, longest), ask.candidates or MOST_CANDIDATES)
        costs = self.speeds.of(version)
        if costs is None:
            return most
        chosen = quality_for(ask.deadline.left_ms() - self.turns.wait_ms, costs, most)
        return Quality(
            most.behaviours if ask.behaviours else chosen.behaviours,
            most.candidates if ask.candidates else chosen.candidates,
        )

    def _scoring_ms(self, begun: Begun, candidates: int) -> float | None:
        """What scoring will take once the user is there; None while that was not measured."""
        costs, count = self.speeds.of(begun.version), min(candidates, begun.quality.candidates)
        return None if costs is None else costs.scoring(begun.quality.behaviours, count)
