"""What serving would have known of a user just before any event of a log, for many events at once.

`History.before` equals `domain.user_features.user_inputs` on what the fold makes of all earlier events; it
needs no fold, only sorted arrays: behaviours are the neighbours in the user's own order, window counts are
differences of running sums at tile-floored starts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.user_features import UserInputs, log_counts, log_hours
from domain.windows import oldest_starts
from models.log import Events, time_keys
from schemas.records import ACTIONS

__all__ = ["History"]

_Int = npt.NDArray[np.int64]


class History:
    """Index of a log's events by user. Memory: 80 bytes an event."""

    def __init__(self, events: Events, lag_ms: int = 0) -> None:
        """`lag_ms` is how late events are known: users are read as of their times without what is younger than that."""
        self._events, self._lag_ms = events, lag_ms
        _, user = np.unique(events.user_id, return_inverse=True)
        self._order = np.argsort(user, kind="stable")  # events by (user, log position)
        self._place = np.empty_like(self._order)  # where an event stands in that order
        self._place[self._order] = np.arange(len(events))
        self._user = user
        sorted_user = user[self._order]
        self._first = np.searchsorted(sorted_user, np.arange(len(np.unique(user))))  # each user's first place
        self._keys = time_keys(sorted_user, events.time_ms[self._order], events.time_ms) if len(events) else sorted_user
        acted = events.action[self._order][:, None] == np.arange(len(ACTIONS))
        self._running = np.zeros(
            (len(events) + 1, len(ACTIONS)), dtype=np.int32
        )  # events of each action before a place
        np.cumsum(acted, axis=0, out=self._running[1:])

    def before(self, positions: _Int, dims: Dimensions) -> UserInputs:
        """Inputs of the users of these events ([B] log positions), as of their times, from strictly earlier events.

        L is the most that any of the users has, at least `dims.behaviours` and at most `dims.long_behaviours`.
        """
        events = self._events
        at_ms = events.time_ms[positions]
        place = self._known(positions, at_ms)
        first = self._first[self._user[positions]]
        most = min(int((place - first).max(initial=0)), dims.long_behaviours)
        earlier = place[:, None] - 1 - np.arange(max(most, dims.behaviours))  # [B, L] newest first
        present = earlier >= first[:, None]
        source = self._order[np.maximum(earlier, 0)]
        elapsed = np.where(present, at_ms[:, None] - events.time_ms[source], 0)
        return UserInputs(
            windows=log_counts(self._window_counts(self._user[positions], place, at_ms)),
            item_ids=np.where(present, events.item_id[source], 0),
            actions=np.where(present, events.action[source], 0).astype(np.int64),
            ages=log_hours(elapsed),
            present=present,
        )

    def _known(self, positions: _Int, at_ms: _Int) -> _Int:
        """The place behind what is known of each user."""
        place = self._place[positions]
        if not self._lag_ms:
            return place
        keys = time_keys(self._user[positions], at_ms - self._lag_ms, self._events.time_ms)
        return np.minimum(place, np.searchsorted(self._keys, keys, side="right"))

    def _window_counts(self, user: _Int, place: _Int, at_ms: _Int) -> npt.NDArray[np.float32]:
        starts = oldest_starts(at_ms)  # [B, windows]
        keys = time_keys(user[:, None], starts, self._events.time_ms)
        # A start before the log began is clipped to the user's own range, so that it never reaches another user.
        # And one after all that is known finds nothing.
        oldest = np.minimum(np.searchsorted(self._keys, keys, side="left"), place[:, None])
        counts = self._running[place][:, None, :] - self._running[oldest]  # [B, windows, actions]
        return counts.astype(np.float32)
