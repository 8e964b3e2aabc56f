"""Answers as data: what each route of the API says, made from the store and the live version. No HTTP here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.feature_plan import PLAN
from domain.feature_values import feature_values
from domain.n2o import Flag
from domain.user_row import behaviours_of, window_counts
from domain.windows import WINDOWS
from schemas.deployment import Deployment
from schemas.errors import DecodeError, Unavailable
from schemas.records import ACTIONS, UserHead
from serving.answers import Answer
from serving.metrics import Metrics
from serving.post_processing import NO_FILTERS, Filters, check_scores
from serving.progress import Progress
from serving.rank_request import RankRequest
from serving.scorer import Ranked, Scorer
from serving.stages import StageClock
from serving.store import Store
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
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.versions = versions
        self.progress = progress
        self._deployment = deployment
        self._store = store
        self._metrics = metrics
        self._filters = filters
        self._scorers = scorers
        self._scorer = Scorer()
        self._wall_s = wall_s

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
        at_ms = self._now_ms() if request.at_ms is None else request.at_ms
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
        return Answer(request, version.name, at_ms, age_ms, head is not None, ranked, order, left_out)

    def as_json(self, answer: Answer, clock: StageClock) -> dict[str, Any]:
        """A JSON answer, with the catalogue's titles."""
        return answer.as_json(self._store.items.get, clock)

    def item(self, item_id: int) -> dict[str, Any] | None:
        """What is held of an item; None where nothing is."""
        item = self._store.items.get(item_id)
        rows = self._rows_of(item_id)
        if item is None and not rows:
            return None
        return {"item_id": item_id, "live": item is not None, **(item._asdict() if item else {}), "rows": rows}

    def user(self, user_id: int, at_ms: int | None) -> dict[str, Any] | None:
        """A user's windows and behaviours as the user phase reads them at a time, and declared features.

        None for a user without a row.
        Raises DecodeError where the row cannot be read by this build.
        """
        head = self._store.users.head(user_id)
        if head is None:
            return None
        at = self._now_ms() if at_ms is None else at_ms
        when = np.array([at], dtype=np.int64)
        counts = window_counts([head], when)[0]
        return {
            "user_id": user_id,
            "at_ms": at,
            "newest_event_time_ms": head["newest_event_time_ms"],
            "source_offset": head["source_offset"],
            "windows": {
                window.name: {ACTIONS[code]: int(counts[row, code]) for code in np.flatnonzero(counts[row]).tolist()}
                for row, window in enumerate(WINDOWS)
            },
            "features": self._features(head, when),
            "behaviours": [
                {
                    "item_id": int(each["item_id"]),
                    "action": ACTIONS[each["action"]],
                    "event_time_ms": int(each["event_time_ms"]),
                    "category_id": int(each["category_id"]) if each["has_category"] else None,
                    "title": item.title if (item := self._store.items.get(int(each["item_id"]))) else None,
                }
                for each in behaviours_of(head)[::-1]
            ],
        }

    def _features(self, head: UserHead, when: npt.NDArray[np.int64]) -> dict[str, Any] | None:
        """Declared features by name; None while the worker has not migrated the row to this build's declarations."""
        if head["declarations"] != PLAN.fingerprint:
            return None
        return {name: column.items()[0] for name, column in feature_values([head], when).items()}

    def versions_known(self) -> dict[str, Any]:
        """What is live, what comes next, and what was refused."""
        live, candidate = self.versions.live, self.versions.candidate
        return {
            "live": self._version(live),
            "candidate": self._version(candidate),
            "gate": self.versions.gate,
            "announced": [
                {name: record[name] for name in ("version", "event_time_ms", "published_by", "reason")}
                for record in self.versions.announced()
            ],
            "refused": dict(self.versions.refused),
        }

    def readiness(self) -> dict[str, Any]:
        """Whether the server should get traffic, and why not."""
        progress, store = self.progress, self._store
        reasons = progress.not_ready(self.versions)
        age_ms = progress.age_ms(store)
        live = self.versions.live
        return {
            "ready": not reasons,
            "reasons": reasons,
            "model_version": live.name if live else None,
            "refused": dict(self.versions.refused),
            "broker": "connected" if progress.connected else "unreachable",
            "feed": progress.says,
            "age_ms": None if age_ms is None else round(age_ms, 1),
            "lag": sum(progress.lag.values()),
            "event_clock_ms": store.event_clock_ms,
            "items": len(store.items),
            "users": len(store.users),
            "store_bytes": store.nbytes,
        }

    def _now_ms(self) -> int:
        """The deployment's clock; the machine's while no event was applied."""
        event_ms = self._store.event_clock_ms if self._deployment.clock == "event" else None
        return int(self._wall_s() * 1000) if event_ms is None else event_ms

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

    def _rows_of(self, item_id: int) -> list[dict[str, Any]]:
        """The item's N2O rows of the versions in use."""
        rows = []
        for version in (self.versions.live, self.versions.candidate):
            if version is None:
                continue
            raw = np.empty((1, version.slab.stride), dtype=np.uint8)
            if not version.slab.gather(np.array([item_id], dtype=np.int64), raw)[0]:
                continue
            row = raw.view(version.layout.dtype)[0, 0]
            flags = Flag(int(row["flags"]))
            rows.append(
                {
                    "version": version.name,
                    "event_time_ms": int(row["event_time_ms"]),
                    "source_offset": int(row["source_offset"]),
                    "deleted": Flag.DELETED in flags,
                    "signature": row["signature"].tobytes().hex() if Flag.HAS_SIGNATURE in flags else None,
                }
            )
        return rows

    def _version(self, version: Version | None) -> dict[str, Any] | None:
        if version is None:
            return None
        tag = version.slab.tag
        return {
            "version": version.name,
            "rows": len(version.slab),
            "coverage": self._store.coverage(tag),
            "slab_bytes": version.slab.nbytes,
        }
