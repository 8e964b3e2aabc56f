"""Ranking as a service: a request in, an answer out, pinned to the version that was live when it came. No HTTP here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Final

import numpy as np

from domain.n2o import Flag
from domain.user_features import user_inputs
from domain.user_row import behaviours_of
from schemas.deployment import Deployment
from schemas.errors import DecodeError, Unavailable
from schemas.records import UserHead
from serving.answers import Answer
from serving.explain import MOST_EXPLAINED, User, explained
from serving.lookups import Lookups
from serving.metrics import Metrics
from serving.post_processing import NO_FILTERS, Filters, check_scores
from serving.progress import Progress
from serving.rank_request import RankRequest
from serving.samples import Samples
from serving.scorer import Ranked, Scorer
from serving.stages import StageClock
from serving.store import Store, TablePartition
from serving.versions import Version, Versions

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
        scorers: Executor | None = None,
        samples: Samples | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.versions = versions
        self.progress = progress
        self.lookups = Lookups(deployment, store, versions, progress, wall_s)
        self._store = store
        self._metrics = metrics
        self._filters = filters
        self._scorers = scorers
        self.samples = Samples() if samples is None else samples
        self._scorer = Scorer()

    async def rank(self, request: RankRequest, clock: StageClock) -> Answer:
        """`rank_here` on one of the threads that score, where there are any."""
        if self._scorers is None:
            return self.rank_here(request, clock)
        return await asyncio.get_running_loop().run_in_executor(self._scorers, self.rank_here, request, clock)

    def rank_here(self, request: RankRequest, clock: StageClock) -> Answer:
        """Rank a request's candidates, in this thread.

        Raises Unavailable, saying why, while no version is live, and where the request has waited beyond its deadline.
        """
        version = self.versions.live  # once: everything below is of this version
        if version is None:
            raise Unavailable("; ".join(self.progress.not_ready(self.versions)))
        if request.deadline_ms is not None and clock.total_ms() > request.deadline_ms:
            raise Unavailable(f"waited longer than the request's deadline_ms of {request.deadline_ms}: not scored")
        applied = self._applied() if request.explain or self.samples.wanted() else None
        at_ms = self.lookups.now_ms() if request.at_ms is None else request.at_ms
        filters = self._filters.tightened(request.filters)
        count = len(request.candidate_ids)
        top_k = count if filters or request.in_request_order else request.top_k
        with clock.time("feature_retrieval"):
            head = self._head(request.user_id)
        ranked = self._scorer.rank(version, head, request.candidate_ids, at_ms, top_k, clock)
        with clock.time("post_processing"):
            check_scores(ranked.scores, version.name)
            order, left_out = ranked.order, _NOBODY
            if filters:
                wanted = count if request.in_request_order else request.top_k
                order, left_out = filters.apply(order, request.candidate_ids, self._store.items.get, wanted)
        self._count(request, ranked, len(left_out))
        age_ms = self.progress.age_ms(self._store)
        answer = Answer(request, version.name, at_ms, age_ms, head is not None, ranked, order, left_out)
        # Rows that came while it was made may or may not be in it: only an answer between two batches says what it saw.
        if applied is not None and applied == self._applied():
            answer = replace(answer, sample_id=self.samples.keep(answer, applied))
        if request.explain:
            answer = replace(answer, explanation=self._explanation(version, head, answer))
        return answer

    def as_json(self, answer: Answer, clock: StageClock) -> dict[str, Any]:
        """A JSON answer, with the catalogue's titles."""
        return answer.as_json(self._store.items.get, clock)

    def _explanation(self, version: Version, head: UserHead | None, answer: Answer) -> dict[str, Any]:
        """Of the best candidates of an answer. Reads rows again: where they changed meanwhile, `score` tells."""
        sizes, layout, ids = version.sizes, version.layout, answer.request.candidate_ids[answer.order[:MOST_EXPLAINED]]
        inputs = user_inputs([head], [behaviours_of(head)[::-1]], np.array([answer.at_ms], dtype=np.int64), sizes)
        raw = np.empty((len(ids) + inputs.item_ids.shape[1], layout.stride), dtype=np.uint8)
        found = version.slab.gather(np.concatenate((ids, inputs.item_ids[0])), raw)
        records = raw.view(layout.dtype)[:, 0]
        candidates, behaviours, known = records[: len(ids)], records[len(ids) :], found[len(ids) :]
        servable = found[: len(ids)] & (candidates["flags"] & Flag.DELETED == 0)
        raw[: len(ids)][~servable] = 0
        user = User(inputs, behaviours, known, version.phase.run(inputs, behaviours, known))
        of_items = explained(candidates, servable, user, version.head, sizes, answer.at_ms)
        newest_ms = None if head is None else head["newest_event_time_ms"]
        return {
            "user_event_time_ms": newest_ms,
            "user_age_ms": None if newest_ms is None else answer.at_ms - newest_ms,
            "items": [{"item_id": item_id, **each} for item_id, each in zip(ids.tolist(), of_items, strict=True)],
        }

    def _applied(self) -> dict[TablePartition, int]:
        return self._store.applied

    def _head(self, user_id: int) -> UserHead | None:
        """The user's row; a row that this build cannot read counts as none, and in the metrics."""
        try:
            head = self._store.users.head(user_id)
        except DecodeError as error:
            self._metrics.users[error.reason].inc()
            return None
        self._metrics.users["unknown" if head is None else "known"].inc()
        return head

    def _count(self, request: RankRequest, ranked: Ranked, filtered: int) -> None:
        metrics = self._metrics
        scored = len(ranked.scores) - ranked.missing - ranked.deleted
        for outcome, count in (
            ("scored", scored), ("missing", ranked.missing), ("deleted", ranked.deleted), ("filtered", filtered),
            ("duplicate", request.duplicates),
        ):  # fmt: skip
            if count:
                metrics.candidates[outcome].inc(count)
        metrics.behaviours["used"].inc(ranked.behaviours_used)
        metrics.behaviours["missing"].inc(ranked.behaviours_missing)
