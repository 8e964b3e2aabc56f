"""A user's state: all that scoring any candidates for the user needs, of one version, made by one user phase.

`StateMaker` makes states of several users at a time: their behaviours are read and joined with the item rows of the
version in one gather, and the graph runs once for all whose histories are of about the same length (padding never
doubles a run).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.sequence import BEHAVIOUR_DTYPE, SEQUENCE
from domain.user_features import user_inputs
from schemas.records import UserHead
from serving.kernels import PreparedUser, prepare
from serving.rollout.versions import Version
from serving.tables.users import UserStore
from serving.user.user_side import Asked

__all__ = ["StateMaker", "UserState", "history_of"]

_Row = tuple[UserHead | None, npt.NDArray[Any]]

_NOTHING: Final = np.zeros(0, dtype=BEHAVIOUR_DTYPE)


@dataclass(frozen=True)
class UserState:
    """One user in one version of the model."""

    prepared: PreparedUser
    taste: npt.NDArray[np.float32] | None  #: [d] mean vector of the behaviours' items; None where none has a row
    behaviours_used: int
    behaviours_missing: int  #: their item has no row: masked

    @property
    def version_tag(self) -> int:
        """The version that made it."""
        return self.prepared.version_tag

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.prepared.nbytes + (0 if self.taste is None else self.taste.nbytes)


class StateMaker:
    """Runs user phases. Any thread may call it."""

    def __init__(self, users: UserStore) -> None:
        self._users = users

    def __call__(self, version: Version, asked: Sequence[Asked]) -> list[UserState]:
        """The states of some users, in their order. Raises Corrupt where a row contradicts itself."""
        rows = [history_of(self._users, each) for each in asked]
        states: list[UserState | None] = [None] * len(asked)
        for places in _alike([len(behaviours) for _, behaviours in rows], version.sizes.behaviours):
            at_ms = np.array([asked[place].at_ms for place in places], dtype=np.int64)
            made = self._run(version, [rows[place] for place in places], at_ms)
            for place, state in zip(places, made, strict=True):
                states[place] = state
        return [state for state in states if state is not None]

    def _run(self, version: Version, rows: Sequence[_Row], at_ms: npt.NDArray[np.int64]) -> list[UserState]:
        sizes, layout = version.sizes, version.layout
        inputs = user_inputs([head for head, _ in rows], [behaviours for _, behaviours in rows], at_ms, sizes)
        ids = inputs.item_ids.reshape(-1)
        read = version.slab.rows(ids, np.empty((len(ids), layout.stride), dtype=np.uint8))
        known = read.known.reshape(inputs.item_ids.shape) & inputs.present
        records = read.raw.view(layout.dtype).reshape(inputs.item_ids.shape)
        folded = version.phase.run(inputs, read)
        return [
            UserState(
                prepare(version.head, sizes, each),
                layout.vectors(records[user][known[user]]).mean(axis=0) if known[user].any() else None,
                int(np.count_nonzero(known[user])),
                int(np.count_nonzero(inputs.present[user] & ~known[user])),
            )
            for user, each in enumerate(folded)
        ]


def history_of(users: UserStore, asked: Asked) -> _Row:
    """The user's row, and the newest behaviours at the asked time, newest first ([<= asked] BEHAVIOUR_DTYPE).

    Both are of one moment, which may be later than when the request found its row; None where that is gone since.
    """
    if asked.head is None or not asked.behaviours:
        return asked.head, _NOTHING
    # A time before the row's newest event hides some of the newest behaviours: only then the rest is read too.
    past = asked.at_ms < asked.head["newest_event_time_ms"]
    row = users.read(asked.user_id, SEQUENCE if past else asked.behaviours)
    if row is None:
        return None, _NOTHING
    return row.head, row.behaviours[row.behaviours["event_time_ms"] <= asked.at_ms][: asked.behaviours]


def _alike(lengths: Sequence[int], fewest: int) -> list[list[int]]:
    """Places of histories that run together: each padded length is less than twice the shortest's, or `fewest`."""
    groups: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        groups.setdefault(max(length - 1, fewest - 1).bit_length(), []).append(place)
    return list(groups.values())
