"""Ranking as a service: a request in, an answer out, pinned to the version that was live when it came. No HTTP here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

import numpy as np

from schemas.deployment import Deployment
from schemas.errors import Unavailable
from serving.answers import Answer
from serving.deadline import NEVER, Deadline
from serving.lookups import Lookups
from serving.merger import Ask, Begun, Merger
from serving.metrics import Metrics
from serving.post_processing import NO_FILTERS, Filters, check_scores
from serving.progress import Progress
from serving.rank_request import RankRequest
from serving.scorer import Ranked
from serving.stages import StageClock
from serving.store import Store
from serving.versions import Versions

__all__ = ["Service"]

_NOBODY: Final = np.empty(0, dtype=np.int64)


class Service:
    """The read side of one serving process. Any thread may call it."""

    def __init__(
        self,
        deployment: Deployment,
        store: Store,
        versions: Versions,
        progress: Progress,
        metrics: Metrics,
        filters: Filters = NO_FILTERS,
        merger: Merger | None = None,
        scorers: Executor | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.versions = versions
        self.progress = progress
        self.lookups = Lookups(deployment, store, versions, progress, wall_s)
        self._store = store
        self._metrics = metrics
        self._filters = filters
        self._scorers = scorers
        self.merger = merger or Merger.of(store, versions)

    async def rank(self, request: RankRequest, clock: StageClock) -> Answer:
        """Start the user phase and, when it is there, rank on one of the threads that score, where there are any.

        Raises as `rank_here`.
        """
        if self._scorers is None:
            return self.rank_here(request, clock)
        begun = self._begin(request, clock)
        await self.merger.arrive(begun, len(request.candidate_ids), clock)
        return await asyncio.get_running_loop().run_in_executor(self._scorers, self.rank_here, request, clock, begun)

    def rank_here(self, request: RankRequest, clock: StageClock, begun: Begun | None = None) -> Answer:
        """Rank a request's candidates, in this thread; `begun` where its user phase was started already.

        Raises Unavailable, saying why, while no version is live, and where the request has waited beyond its deadline.
        """
        begun = begun or self._begin(request, clock)
        if request.deadline_ms is not None and clock.total_ms() > request.deadline_ms:
            raise Unavailable(f"waited longer than the request's deadline_ms of {request.deadline_ms}: not scored")
        filters = self._filters.tightened(request.filters)
        count = len(request.candidate_ids)
        top_k = count if filters or request.in_request_order else request.top_k
        merged = self.merger.score_here(begun, request.candidate_ids, top_k, clock)
        ranked, version = merged.ranked, begun.version
        with clock.time("post_processing"):
            check_scores(ranked.scores, version.name)
            order, left_out = ranked.order, _NOBODY
            if filters:
                wanted = count if request.in_request_order else request.top_k
                order, left_out = filters.apply(order, request.candidate_ids, self._store.items.get, wanted)
        self._count(request, begun, ranked, len(left_out))
        age_ms = self.progress.age_ms(self._store)
        return Answer(request, version.name, begun.ask.at_ms, age_ms, begun.user == "known", merged, order, left_out)

    def _begin(self, request: RankRequest, clock: StageClock) -> Begun:
        """The request pinned to a version, its user phase under way."""
        if self.versions.live is None:
            raise Unavailable("; ".join(self.progress.not_ready(self.versions)))
        exact = request.at_ms is not None
        deadline = NEVER if request.deadline_ms is None else Deadline.after(request.deadline_ms - clock.total_ms())
        # Whoever wants scores in the order of the request wants all of them.
        candidates = len(request.candidate_ids) if request.in_request_order else None
        at_ms = self.lookups.now_ms() if request.at_ms is None else request.at_ms
        with clock.time("feature_retrieval"):
            return self.merger.prepare(Ask(request.user_id, at_ms, exact, deadline, request.behaviours, candidates))

    def as_json(self, answer: Answer, clock: StageClock) -> dict[str, Any]:
        """A JSON answer, with the catalogue's titles."""
        return answer.as_json(self._store.items.get, clock)

    def _count(self, request: RankRequest, begun: Begun, ranked: Ranked, filtered: int) -> None:
        metrics = self._metrics
        metrics.users[begun.user].inc()
        scored = len(ranked.scores) - ranked.missing - ranked.deleted
        for outcome, count in (
            ("scored", scored), ("missing", ranked.missing), ("deleted", ranked.deleted), ("filtered", filtered),
            ("duplicate", request.duplicates),
        ):  # fmt: skip
            if count:
                metrics.candidates[outcome].inc(count)
        metrics.behaviours["used"].inc(ranked.behaviours_used)
        metrics.behaviours["missing"].inc(ranked.behaviours_missing)
