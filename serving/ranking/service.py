"""Ranking as a service: a request in, an answer out, pinned to the version that was live when it came. No HTTP here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from domain.n2o import Flag
from domain.user_features import user_inputs
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from serving.metrics import Metrics
from serving.ranking.answers import Answer
from serving.ranking.deadline import NEVER, Deadline
from serving.ranking.explain import MOST_EXPLAINED, User, explained
from serving.ranking.merger import Ask, Begun, Merger
from serving.ranking.post_processing import NO_FILTERS, Filters, check_scores
from serving.ranking.retrieval import Retriever
from serving.ranking.samples import Samples
from serving.ranking.scorer import Ranked
from serving.rollout.shadow import Shadow
from serving.rollout.versions import Versions
from serving.stages import StageClock
from serving.tables.progress import Progress, Token
from serving.tables.store import Store, TablePartition
from serving.user.user_side import How
from serving.web.lookups import Lookups
from serving.web.rank_request import RankRequest, Retrieve

__all__ = ["Service"]

#: How long a request without a deadline waits for an event, and how often it looks.
_MOST_WAIT_MS: Final = 1000.0
_LOOK_S: Final = 0.001
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
        samples: Samples | None = None,
        retrievers: Mapping[str, Retriever] | None = None,
        shadow: Shadow | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.versions = versions
        self.progress = progress
        self.lookups = Lookups(deployment, store, versions, progress, wall_s)
        self._store = store
        self._metrics = metrics
        self._filters = filters
        self.samples = Samples() if samples is None else samples
        self._retrievers = retrievers or {}
        self._shadow = shadow
        self.merger = merger or Merger.of(store, versions)

    async def rank(self, request: RankRequest, clock: StageClock) -> Answer:
        """Start the user phase and, when it is there and it is the request's turn (turns.py), rank.

        Raises as `rank_here`, and Unavailable where that turn would come after the deadline.
        """
        if request.after is not None:
            applied = await self._reached(request.after, request, clock)
            return replace(await self.rank(replace(request, after=None), clock), after_applied=applied)
        begun = None
        if request.retrieve is not None:
            begun = self._begin(request, clock)
            request = await self._with_candidates(request, request.retrieve, begun, clock)
        if self._to_keep(request):
            return await self.merger.turns.run(None, False, partial(self._kept, request, clock))
        begun = begun or self._begin(request, clock)
        answer = partial(self.rank_here, request, clock, begun)
        filters = self._filters.tightened(request.filters)
        return await self.merger.in_turn(begun, len(request.candidate_ids), clock, answer, short=not filters)

    def rank_here(self, request: RankRequest, clock: StageClock, begun: Begun | None = None) -> Answer:
        """Rank a request's candidates, in this thread; `begun` where its user phase was started already.

        Raises Unavailable, saying why, while no version is live, and where the request has waited beyond its deadline.
        """
        if begun is None and self._to_keep(request):
            return self._kept(request, clock)
        return self._answer(request, begun or self._begin(request, clock), clock)

    async def _reached(self, token: Token, request: RankRequest, clock: StageClock) -> bool:
        """Wait until an event is applied, half of the deadline at most; says whether it is."""
        left_ms = _MOST_WAIT_MS if request.deadline_ms is None else request.deadline_ms / 2 - clock.total_ms()
        deadline = Deadline.after(left_ms)
        with clock.time("feature_retrieval"):
            # The feeder is another process: nothing here could be woken.
            while not (reached := self.progress.reached(self._store, token)) and deadline.left_ms() > 0:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
        return reached

    async def _with_candidates(
        self, request: RankRequest, wanted: Retrieve, begun: Begun, clock: StageClock
    ) -> RankRequest:
        """The request with retrieved candidates. Raises BadInput where this server does not retrieve that way, and
        Unavailable while there is nothing to retrieve."""
        retriever = self._retrievers.get(wanted.source)
        if retriever is None:
            raise BadInput(
                f"this server does not retrieve {wanted.source!r}: start it with --retrieval, or send candidates"
            )
        found = await self.merger.candidates(begun, retriever, wanted.count, clock)
        if not len(found):
            raise Unavailable(f"version {begun.version.name} has no item to retrieve yet")
        return replace(request, candidate_ids=found, top_k=min(request.top_k, len(found)))

    def _to_keep(self, request: RankRequest) -> bool:
        return request.explain or self.samples.wanted()

    def _kept(self, request: RankRequest, clock: StageClock) -> Answer:
        """An answer that is kept, or explained: nothing of it comes from a cache, so that it can be made again."""
        applied = self._applied()
        begun = self._begin(request, clock, fresh=True)
        answer = self._answer(request, begun, clock)
        whole = answer.merged.user_phase == How.COMPUTED or not answer.user_known
        # Rows that came while it was made may or may not be in it: only an answer between two batches says what it saw.
        if whole and applied == self._applied():
            answer = replace(answer, sample_id=self.samples.keep(answer, applied))
        if request.explain:
            answer = replace(answer, explanation=self._explanation(begun, answer))
        return answer

    def _begin(self, request: RankRequest, clock: StageClock, fresh: bool = False) -> Begun:
        """The request pinned to a version, its user phase under way."""
        if self.versions.live is None:
            raise Unavailable("; ".join(self.progress.not_ready(self.versions)))
        deadline = NEVER if request.deadline_ms is None else Deadline.after(request.deadline_ms - clock.total_ms())
        at_ms = self.lookups.now_ms() if request.at_ms is None else request.at_ms
        ask = Ask(
            request.user_id, at_ms, exact_time=fresh or request.at_ms is not None, fresh=fresh, deadline=deadline,
            # Whoever wants scores in the order of the request wants all of them.
            behaviours=request.behaviours, candidates=len(request.candidate_ids) if request.in_request_order else None,
        )  # fmt: skip
        with clock.time("feature_retrieval"):
            return self.merger.prepare(ask)

    def _answer(self, request: RankRequest, begun: Begun, clock: StageClock) -> Answer:
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
                order, left_out = filters.apply(order, request.candidate_ids, self._store.items.get_many, wanted)
        self._count(request, begun, ranked, len(left_out))
        age_ms = self.progress.age_ms(self._store)
        at_ms, is_known = begun.ask.at_ms, begun.user == "known"
        answer = Answer(request, version.name, at_ms, age_ms, is_known, merged, order, left_out)
        if self._shadow is not None:
            asked = begun.pending.asked
            self._shadow.offer(version, asked, request.behaviours, merged.candidates, request.top_k)
        return answer

    def as_json(self, answer: Answer, clock: StageClock) -> dict[str, Any]:
        """A JSON answer, with the catalogue's titles."""
        return answer.as_json(self._store.items.get_many, clock)

    def _explanation(self, begun: Begun, answer: Answer) -> dict[str, Any]:
        """Of the best candidates of an answer. Reads rows again: where they changed meanwhile, `score` tells."""
        version, head = begun.version, begun.pending.asked.head
        sizes, layout, ids = version.sizes, version.layout, answer.request.candidate_ids[answer.order[:MOST_EXPLAINED]]
        history = self.merger.history(begun.pending.asked)
        inputs = user_inputs([head], [history], np.array([answer.at_ms], dtype=np.int64), sizes)
        rows, behaviours = (
            version.slab.rows(each, np.empty((len(each), layout.stride), dtype=np.uint8))
            for each in (ids, inputs.item_ids[0])
        )
        servable = rows.known & (rows.raw.view(layout.dtype)[:, 0]["flags"] & Flag.DELETED == 0)
        rows.raw[~servable] = 0
        user = User(inputs, behaviours, version.phase.run(inputs, behaviours)[0])
        of_items = explained(rows, servable, user, version.head, sizes, answer.at_ms)
        newest_ms = None if head is None else head["newest_event_time_ms"]
        return {
            "user_event_time_ms": newest_ms,
            "user_age_ms": None if newest_ms is None else answer.at_ms - newest_ms,
            "items": [{"item_id": item_id, **each} for item_id, each in zip(ids.tolist(), of_items, strict=True)],
        }

    def _applied(self) -> dict[TablePartition, int]:
        return self._store.applied

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
