"""Candidates of one user: their rows, their scores, their order. The user's state is at hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import Corrupt
from serving.joining import ItemRows
from serving.kernels import Floats, rank, score_rows
from serving.rollout.versions import Version
from serving.stages import StageClock
from serving.user.user_state import UserState

__all__ = ["Ranked", "Scorer"]


@dataclass(frozen=True)
class Ranked:
    """Scores of a request's candidates ([n], in the order given) and their ranking."""

    order: npt.NDArray[np.int64]  #: [k] indices of candidates, best first
    scores: Floats  #: [n]; a candidate that is not known has the score of a row of zeros
    known: npt.NDArray[np.bool_]  #: [n] has a servable row of this version
    missing: int  #: candidates without a row
    deleted: int  #: candidates whose item is deleted
    behaviours_used: int
    behaviours_missing: int  #: behaviours whose item has no row: masked


class Scorer:
    """Scores candidates. Any thread may call `rank`."""

    def rank(
        self, version: Version, state: UserState, candidates: npt.NDArray[np.int64], top_k: int, clock: StageClock
    ) -> Ranked:
        """Rank distinct candidates ([n] int64).

        Raises VersionMismatch where the state is of another version, Corrupt where a score is not a number.
        """
        scores, found, live = self._scored(version, state, candidates, clock)
        with clock.time("post_processing"):
            if not np.isfinite(scores).all():
                raise Corrupt(f"model {version.name} gave a score that is not a number: roll back to another version")
            order = rank(scores, candidates, live, top_k)
        known = int(np.count_nonzero(found))
        return Ranked(
            order, scores, live, len(candidates) - known, known - int(np.count_nonzero(live)),
            state.behaviours_used, state.behaviours_missing,
        )  # fmt: skip

    def _scored(
        self, version: Version, state: UserState, candidates: npt.NDArray[np.int64], clock: StageClock
    ) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Scores, who has a row, and whose is servable ([n] each). Rows are read where they lie: copying them would
        cost more than anything but the network."""
        while True:
            with clock.time("feature_retrieval"):
                held = version.slab.hold(candidates)
            try:
                with clock.time("transform"):
                    found = held.places >= 0
                    live = found & ~held.deleted
                    # What is not servable scores as if nothing were known of it.
                    rows = ItemRows(version.slab.tag, held.records, live, np.where(live, held.places, -1))
                with clock.time("inference"):
                    scores = score_rows(state.prepared, rows)
            finally:
                kept = version.slab.release()
            if kept:
                return scores, found, live
