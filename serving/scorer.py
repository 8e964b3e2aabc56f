"""One request: the user's row and the rows it needs, the user phase, the candidates' scores, the ranking.

Five stages, each timed: ingress (the API's), feature retrieval (rows out of memory), transform (rows to network
inputs), inference (the user phase and the head), post-processing (validation and ranking).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.n2o import Flag
from domain.user_features import user_inputs
from domain.user_row import behaviours_of
from schemas.errors import Corrupt
from schemas.records import UserHead
from serving.kernels import Floats, assemble, category_rows, first_layer, input_width, rank, score
from serving.stages import StageClock
from serving.versions import Version

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
    """Scores candidates. Any thread may call `rank`; each has its own buffers, as large as its largest request."""

    def __init__(self) -> None:
        self._buffers = threading.local()

    def rank(
        self,
        version: Version,
        head: UserHead | None,
        candidates: npt.NDArray[np.int64],
        at_ms: int,
        top_k: int,
        clock: StageClock,
    ) -> Ranked:
        """Rank distinct candidates ([n >= 1] int64) for a user (None: one without a row) at an event time.

        Everything of the model comes from `version`. Raises Corrupt where a score is not a number.
        """
        sizes, layout, count = version.sizes, version.layout, len(candidates)
        with clock.time("transform"):
            newest_first = behaviours_of(head)[::-1]
            user = user_inputs([head], [newest_first], np.array([at_ms], dtype=np.int64), sizes)
        with clock.time("feature_retrieval"):
            # Candidates and behaviours in one gather: all rows are of one moment.
            ids = np.concatenate((candidates, user.item_ids[0]))
            raw, inputs = self._rows(len(ids), layout.stride, count, input_width(sizes))
            found = version.slab.gather(ids, raw)
            records = raw.view(layout.dtype)[:, 0]
            rows, behaviours = records[:count], records[count:]
            used = user.present[0] & found[count:]
        with clock.time("inference"):
            folded = version.phase.run(user, behaviours, found[count:])
        with clock.time("transform"):
            live = found[:count] & (rows["flags"] & Flag.DELETED == 0)
            _blank(raw[:count], found[:count] & ~live)
            assemble(rows, version.head, folded, sizes, inputs)
            weights, added = first_layer(version.head, folded), category_rows(rows, folded, sizes)
        with clock.time("inference"):
            scores = score(inputs, weights, folded.bias, added, version.head)
        with clock.time("post_processing"):
            if not np.isfinite(scores).all():
                raise Corrupt(f"model {version.name} gave a score that is not a number: roll back to another version")
            order = rank(scores, candidates, live, top_k)
        present = int(np.count_nonzero(user.present))
        used_count = int(np.count_nonzero(used))
        known = int(np.count_nonzero(found[:count]))
        return Ranked(
            order, scores, live, count - known, known - int(np.count_nonzero(live)), used_count, present - used_count
        )

    def _rows(self, rows: int, stride: int, inputs: int, width: int) -> tuple[npt.NDArray[np.uint8], Floats]:
        """This thread's buffers: [rows, stride] uint8 and [inputs, width] float32, valid until its next request."""
        mine: Any = self._buffers
        size = getattr(mine, "raw", np.empty(0, dtype=np.uint8)).size
        if size < rows * stride:
            mine.raw = np.empty(max(rows, _FIRST_ROWS) * stride, dtype=np.uint8)
        size = getattr(mine, "inputs", np.empty(0, dtype=np.float32)).size
        if size < inputs * width:
            mine.inputs = np.empty(max(inputs, _FIRST_ROWS) * width, dtype=np.float32)
        raw: npt.NDArray[np.uint8] = mine.raw[: rows * stride].reshape(rows, stride)
        return raw, mine.inputs[: inputs * width].reshape(inputs, width)


def _blank(raw: npt.NDArray[np.uint8], rows: npt.NDArray[np.bool_]) -> None:
    """Make some rows zeros: what is not servable scores as if nothing were known of it."""
    if rows.any():
        raw[rows] = 0
