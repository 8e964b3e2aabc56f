"""One sampled request, scored by both versions: same row of the user, same time, same candidates, same thread.

Both are computed anew, one after the other, so that both times are of the same work (user phase and scoring, nothing
from a cache) on the same machine at the same load; who goes first takes turns, because the second finds rows warm.
Each reads as many behaviours as the request says, else as many as it is made for: deadlines do not count here, nor do
filters. The user's row may have grown since the answer; what is later than the answer's time is not read, and both
versions read the same.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

from domain.comparison import MOST_TOP_K, Scored, compared
from domain.shadow import ShadowSums
from serving.ranking.scorer import Scorer
from serving.rollout.shadow import Sampled
from serving.rollout.versions import Version
from serving.stages import StageClock
from serving.tables.users import UserStore
from serving.user.user_state import StateMaker

__all__ = ["ShadowScorer"]

_INCOMPARABLE: Final = ShadowSums(incomparable=1)

_log = logging.getLogger(__name__)


class ShadowScorer:
    """Scores sampled requests; belongs to one thread."""

    def __init__(self, users: UserStore) -> None:
        self._states = StateMaker(users)
        self._scorer = Scorer()
        self._other_first = False
        self._failures: Counter[str] = Counter()  #: by version

    def __call__(self, sampled: Sampled) -> ShadowSums:
        """What one request shows. Never raises: a version that cannot score it has failed it."""
        live, other = sampled.versions.live, sampled.versions.other
        self._other_first = not self._other_first
        in_turn = (other, live) if self._other_first else (live, other)
        made = {version.name: self._try(version, sampled) for version in in_turn}
        one, two = made[live.name], made[other.name]
        if one is None:
            return _INCOMPARABLE
        if two is None:
            return ShadowSums(failed=1)
        comparison = compared(one[0], two[0], sampled.top_k)
        return _INCOMPARABLE if comparison is None else ShadowSums.of(comparison, one[1], two[1])

    def _try(self, version: Version, sampled: Sampled) -> tuple[Scored, float] | None:
        try:
            return self._scored(version, sampled)
        except Exception as error:  # of a graph too, whose errors have no common class
            if not self._failures[version.name]:
                _log.error("version %s cannot score in the shadow (%s); further ones are counted", version.name, error)
            self._failures[version.name] += 1
            return None

    def _scored(self, version: Version, sampled: Sampled) -> tuple[Scored, float]:
        """Scores of a version, and the milliseconds that they took."""
        started_s = time.perf_counter()
        behaviours = min(sampled.asked.behaviours, version.sizes.long_behaviours)
        state = self._states(version, [sampled.asked._replace(behaviours=behaviours)])[0]
        top_k = min(sampled.top_k, MOST_TOP_K)
        ranked = self._scorer.rank(version, state, sampled.candidates, top_k, StageClock())
        return Scored(ranked.scores, ranked.known, ranked.order), (time.perf_counter() - started_s) * 1000
