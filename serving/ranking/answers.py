"""An answer to a rank request, and how it is written in either body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.ranking.merger import Merged
from serving.ranking.scorer import Ranked
from serving.stages import StageClock
from serving.tables.items import Item
from serving.web.binary import BinaryAnswer, Outcome, encode_answer
from serving.web.rank_request import RankRequest

__all__ = ["Answer"]


@dataclass(frozen=True)
class Answer:
    """A ranked request: all of it was made by one version of the model."""

    request: RankRequest
    model_version: str  #: 16 hex digits
    at_ms: int
    age_ms: float | None
    user_known: bool
    merged: Merged
    order: npt.NDArray[np.int64]  #: [k] indices of candidates, best first, after filters
    left_out: npt.NDArray[np.int64]  #: indices of candidates that filters refused
    sample_id: int = 0  #: 0: not kept
    explanation: dict[str, Any] | None = None
    after_applied: bool | None = None  #: whether the event that was waited for is contained; None: none was

    @property
    def ranked(self) -> Ranked:
        """The scores."""
        return self.merged.ranked

    def as_json(self, items_of: Callable[[list[int]], list[Item | None]], clock: StageClock) -> dict[str, Any]:
        """The JSON answer as data; titles are the catalogue's."""
        ranked, age_ms = self.ranked, self.age_ms
        answer: dict[str, Any] = {
            "model_version": self.model_version,
            "user_id": self.request.user,
            "user_known": self.user_known,
            "at_ms": self.at_ms,
            "age_ms": None if age_ms is None else round(age_ms, 1),
            "user_phase": self.merged.user_phase,
            "quality": {
                "behaviours": self.merged.quality.behaviours,
                "candidates": len(self.merged.candidates),
            },
            "behaviours_used": ranked.behaviours_used,
            "behaviours_missing": ranked.behaviours_missing,
            "missing_items": ranked.missing,
            "deleted_items": ranked.deleted,
            "filtered_items": len(self.left_out),
            "duplicates": self.request.duplicates,
            "items": self._items(items_of),
            "stages_ms": {stage: round(spent, 3) for stage, spent in clock.ms.items()},
        }
        if self.after_applied is not None:
            answer["after_applied"] = self.after_applied
        if self.sample_id:
            answer["sample_id"] = f"{self.sample_id:016x}"
        if self.explanation is not None:
            answer["explanation"] = self.explanation
        return answer

    def as_binary(self) -> bytes:
        """The binary answer: the best with their ids, or all in the order of the request."""
        request, ranked = self.request, self.ranked
        outcomes = np.where(ranked.known, np.uint8(Outcome.SCORED), np.uint8(Outcome.UNKNOWN))
        outcomes[self.left_out] = Outcome.FILTERED
        chosen: Any = self.order
        if request.in_request_order:
            chosen = slice(None) if request.places is None else request.places
        return encode_answer(
            BinaryAnswer(
                model_version=self.model_version, sample_id=self.sample_id, user_known=self.user_known,
                user_phase=self.merged.user_phase.code,
                at_ms=self.at_ms, age_ms=self.age_ms, missing_items=ranked.missing, deleted_items=ranked.deleted,
                duplicates=request.duplicates, filtered_items=len(self.left_out),
                behaviours_used=ranked.behaviours_used, behaviours_missing=ranked.behaviours_missing,
                item_ids=None if request.in_request_order else request.candidate_ids[chosen],
                scores=ranked.scores[chosen], outcomes=outcomes[chosen],
            )
        )  # fmt: skip

    def _items(self, items_of: Callable[[list[int]], list[Item | None]]) -> list[dict[str, Any]]:
        request, order = self.request, self.order
        scores, known = self.ranked.scores[order].tolist(), self.ranked.known[order].tolist()
        found = items_of(request.candidate_ids[order].tolist())
        items = []
        for index, item, score, is_known in zip(order.tolist(), found, scores, known, strict=True):
            shown = {"item_id": request.reference(index), "score": score, "known": is_known}
            if item and item.title is not None:
                shown["title"] = item.title
            items.append(shown)
        return items
