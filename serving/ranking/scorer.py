"""Candidates of one user: their rows, their scores, their order. The user's state is at hand."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.n2o import Flag
from schemas.errors import Corrupt
from serving.kernels import Floats, rank, score_rows
from serving.rollout.versions import Version
from serving.stages import StageClock
from serving.user.user_state import UserState

__all__ = ["Ranked", "Scorer"]

_FIRST_ROWS: Final = 1024


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
    """Scores candidates. Any thread may call `rank`; each has its own buffer, as large as its largest request."""

    def __init__(self) -> None:
        self._buffers = threading.local()

    def rank(
        self, version: Version, state: UserState, candidates: npt.NDArray[np.int64], top_k: int, clock: StageClock
    ) -> Ranked:
        """Rank distinct candidates ([n] int64).

        Raises VersionMismatch where the state is of another version, Corrupt where a score is not a number.
        """
        count = len(candidates)
        with clock.time("feature_retrieval"):
            rows = version.slab.rows(candidates, self._rows(count, version.layout.stride))
            raw, found = rows.raw, rows.known
        with clock.time("transform"):
            deleted = found & (raw.view(version.layout.dtype)[:, 0]["flags"] & Flag.DELETED != 0)
            live = found & ~deleted
            raw[deleted] = 0  # what is not servable scores as if nothing were known of it
        with clock.time("inference"):
            scores = score_rows(state.prepared, rows)
        with clock.time("post_processing"):
            if not np.isfinite(scores).all():
                raise Corrupt(f"model {version.name} gave a score that is not a number: roll back to another version")
            order = rank(scores, candidates, live, top_k)
        known = int(np.count_nonzero(found))
        return Ranked(
            order, scores, live, count - known, known - int(np.count_nonzero(live)),
            state.behaviours_used, state.behaviours_missing,
        )  # fmt: skip

    def _rows(self, rows: int, stride: int) -> npt.NDArray[np.uint8]:
        """This thread's buffer ([rows, stride] uint8), valid until its next request."""
        mine: Any = self._buffers
        size = getattr(mine, "raw", np.empty(0, dtype=np.uint8)).size
        if size < rows * stride:
            mine.raw = np.empty(max(rows, _FIRST_ROWS) * stride, dtype=np.uint8)
        raw: npt.NDArray[np.uint8] = mine.raw[: rows * stride].reshape(rows, stride)
        return raw
