"""Scoring an edge bundle: the user phase and the kernels that serving has, over the bundle's rows.

A user is what the device knows: events in the order in which they happened. Their windows count as the workers' tiles
do, so that the same events give the same scores here and there. A behaviour whose item is not in the bundle is masked
and counted, as serving does with an item that has no row; a bundle of few items therefore knows less of a user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.n2o import Flag
from domain.sequence import BEHAVIOUR_DTYPE
from domain.user_features import UserInputs, log_counts, user_inputs
from domain.windows import WINDOWS, oldest_starts
from schemas.errors import ArtifactError, BadInput
from schemas.records import ACTION_CODES, ACTIONS
from serving.edge_bundle import Bundle, read_bundle
from serving.joining import ItemRows, one_version
from serving.kernels import Head, PreparedUser, rank, score_rows
from serving.kernels.plain import Plain
from serving.rollout.versions import load_head
from serving.user.user_phase import UserPhase

__all__ = ["Edge", "EdgeAnswer", "EdgeUser"]


@dataclass(frozen=True)
class EdgeUser:
    """What a device knows of its user."""

    at_ms: int  #: "now"; no event is newer
    behaviours: npt.NDArray[Any]  #: BEHAVIOUR_DTYPE, oldest first

    @classmethod
    def nobody(cls) -> EdgeUser:
        """A user of whom nothing is known."""
        return cls(0, np.zeros(0, dtype=BEHAVIOUR_DTYPE))

    @classmethod
    def read(cls, path: Path) -> EdgeUser:
        """The user in a JSON file: `{"at_ms": 1700000000000, "events": [{"item_id": 5, "action": "click",
        "event_time_ms": 1699999999000}, ...]}`, oldest event first; without `at_ms` it is the newest event's time.

        Raises BadInput naming the event and field that is wrong.
        """
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("events"), list):
            raise BadInput(f"{path} must be an object with a list `events`")
        return cls.of(content, str(path))

    @classmethod
    def of(cls, content: Mapping[str, Any], where: str) -> EdgeUser:
        """The user in the content of such a file; `where` names it in errors."""
        behaviours = np.zeros(len(content["events"]), dtype=BEHAVIOUR_DTYPE)
        for number, event in enumerate(content["events"]):
            for field in ("item_id", "event_time_ms"):
                value = event.get(field) if isinstance(event, dict) else None
                if type(value) is not int or not -(2**60) < value < 2**63:
                    raise BadInput(f"{where}: event {number}: {field} must be a whole number, found {value!r}")
                behaviours[field][number] = value
            if event.get("action") not in ACTION_CODES:
                known = ", ".join(ACTIONS)
                raise BadInput(f"{where}: event {number}: action must be one of {known}, not {event.get('action')!r}")
            behaviours["action"][number] = ACTION_CODES[event["action"]]
        times = behaviours["event_time_ms"]
        if (back := np.flatnonzero(times[1:] < times[:-1])).size:
            raise BadInput(f"{where}: event {int(back[0]) + 1} is older than the one before it: oldest first")
        newest_ms = int(times[-1]) if len(times) else 0
        at_ms = content.get("at_ms", newest_ms)
        if type(at_ms) is not int or at_ms < newest_ms:
            raise BadInput(f"{where}: at_ms must be a time at or after the newest event ({newest_ms}), not {at_ms!r}")
        return cls(at_ms, behaviours)

    def inputs(self, sizes: Dimensions) -> UserInputs:
        """What the user phase reads; that of the row which the workers' fold makes of the same events."""
        at_ms = np.array([self.at_ms], dtype=np.int64)
        found = user_inputs([None], [self.behaviours[::-1]], at_ms, sizes)
        return replace(found, windows=log_counts(self._window_counts(at_ms)))

    def _window_counts(self, at_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Events by window and action ([1, windows, actions]): whole tiles count, as in domain/windows.py."""
        times, oldest = self.behaviours["event_time_ms"], oldest_starts(at_ms)[0]
        counts = np.zeros((1, len(WINDOWS), len(ACTIONS)), dtype=np.float32)
        for window, start_ms in enumerate(oldest.tolist()):
            inside = self.behaviours["action"][times >= start_ms]
            counts[0, window] = np.bincount(inside, minlength=len(ACTIONS))
        return counts


@dataclass(frozen=True)
class EdgeAnswer:
    """The best items of a user, and how much of the user was known."""

    item_ids: npt.NDArray[np.int64]  #: [k] best first
    scores: npt.NDArray[np.float32]  #: [k]
    titles: list[str | None]  #: [k]
    behaviours_used: int
    behaviours_missing: int  #: whose item is not in the bundle


class Edge:
    """A bundle, ready to score. Raises ArtifactError where a part of it does not run here."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._sizes = bundle.manifest.dimensions
        tag = bundle.manifest.version_tag
        self._phase = UserPhase(bundle.user_phase, self._sizes, tag)
        self._phase.warm()
        self._head: Head = load_head(bundle.head, self._sizes, tag)
        self._rows = ItemRows.checked(tag, bundle.records)

    @classmethod
    def open(cls, path: Path) -> Edge:
        """The bundle in a file, checked and loaded."""
        return cls(read_bundle(path))

    def scores(self, user: EdgeUser) -> tuple[npt.NDArray[np.float32], int, int]:
        """Scores of all rows, and how many behaviours were used and missing."""
        inputs = user.inputs(self._sizes)
        behaviours = self._found(inputs.item_ids[0])
        folded = self._phase.run(inputs, behaviours)[0]
        tag = one_version("scores", head=self._head.version_tag, user=folded.version_tag)
        # Plain numpy: a device scores once in a while, and numba would compile for longer than a bundle's items take.
        scores = score_rows(PreparedUser(tag, Plain().prepare(self._head, self._sizes, folded)), self._rows)
        if not np.isfinite(scores).all():
            raise ArtifactError(f"model {self._bundle.manifest.version} gave a score that is not a number: build anew")
        present = int(inputs.present.sum())
        used = int(np.count_nonzero(inputs.present[0] & behaviours.known))
        return scores, used, present - used

    def rank(self, user: EdgeUser, top_k: int) -> EdgeAnswer:
        """The `top_k` best items, equal scores by item id."""
        scores, used, missing = self.scores(user)
        records = self._bundle.records
        order = rank(scores, records["item_id"], records["flags"] & Flag.DELETED == 0, top_k)
        titles = [self._bundle.titles[each] for each in order.tolist()]
        return EdgeAnswer(records["item_id"][order], scores[order], titles, used, missing)

    def _found(self, ids: npt.NDArray[np.int64]) -> ItemRows:
        """The rows of items ([L])."""
        own = self._bundle.records["item_id"]
        place = np.minimum(np.searchsorted(own, ids), len(own) - 1)
        known = own[place] == ids
        records = self._bundle.records[place]
        records[~known] = np.zeros((), dtype=records.dtype)
        return ItemRows.checked(self._bundle.manifest.version_tag, records, known)
