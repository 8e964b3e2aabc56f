"""What was sent to a system, and what must be known of users and items by then: dictionaries and loops, no Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from domain.artifact import Dimensions
from domain.user_features import UserInputs
from domain.windows import WINDOWS
from schemas.records import ACTION_CODES, ACTIONS, ItemUpdate, UserEvent

__all__ = ["Shop"]

_BEHAVIOURS = 32
_HOUR_MS = 3_600_000


class Shop:
    """A log's users and items. Records are taken in the order in which they were sent; users' times ascend."""

    def __init__(self) -> None:
        self.items: dict[int, ItemUpdate] = {}
        #: Rows of table item_activity that the system has settled on, by item: `aif verify` is their oracle.
        self.activity: dict[int, Any] = {}
        self.users: dict[int, list[UserEvent]] = {}
        self._seen: set[int] = set()

    def take(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Records that were sent: an event counts once, and of an item's updates the newest holds."""
        for kind, record in entries:
            if kind == "item":
                held = self.items.get(record["item_id"])
                if held is None or record["event_time_ms"] >= held["event_time_ms"]:
                    self.items[record["item_id"]] = record
            elif record["event_id"] not in self._seen:
                self._seen.add(record["event_id"])
                self.users.setdefault(record["user_id"], []).append(record)

    @property
    def newest_ms(self) -> int:
        """The newest event time of all records that count."""
        events = (event["event_time_ms"] for events in self.users.values() for event in events)
        return max(*events, *(item["event_time_ms"] for item in self.items.values()))

    @property
    def live(self) -> list[int]:
        """Ids of the items that are not deleted, sorted."""
        return sorted(item for item, update in self.items.items() if update["op"] == "upsert")

    def windows(self, user: int, at_ms: int) -> dict[str, dict[str, int]]:
        """Events by window and action at a time that is not before the user's newest event."""
        found = {}
        for window in WINDOWS:
            tiles = range((at_ms - window.length_ms) // window.tile_ms, at_ms // window.tile_ms + 1)
            inside = (event for event in self.users.get(user, []) if event["event_time_ms"] // window.tile_ms in tiles)
            found[window.name] = dict(Counter(event["action"] for event in inside))
        return found

    def behaviours(self, user: int) -> list[dict[str, Any]]:
        """The newest behaviours of a user as the API shows them, newest first."""
        return [
            {
                "item_id": event["item_id"],
                "action": event["action"],
                "event_time_ms": event["event_time_ms"],
                "category_id": event["category_id"],
                "title": self.items[event["item_id"]]["title"] if event["item_id"] in self.items else None,
            }
            for event in reversed(self.users.get(user, [])[-_BEHAVIOURS:])
        ]

    def inputs(self, user: int, at_ms: int, dims: Dimensions) -> UserInputs:
        """Model inputs of one user."""
        counts = self.windows(user, at_ms)
        windows = [counts[window.name].get(action, 0) for window in WINDOWS for action in ACTIONS]
        newest = self.users.get(user, [])[::-1][: dims.long_behaviours]
        length = max(dims.behaviours, len(newest))
        none = [0] * (length - len(newest))
        items = [event["item_id"] for event in newest] + none
        actions = [ACTION_CODES[event["action"]] for event in newest] + none
        ages = [np.log1p((at_ms - event["event_time_ms"]) / _HOUR_MS) for event in newest] + none
        return UserInputs(
            windows=np.log1p(np.array([windows], dtype=np.float32)),
            item_ids=np.array([items], dtype=np.int64),
            actions=np.array([actions], dtype=np.int64),
            ages=np.array([ages], dtype=np.float32),
            present=np.arange(length)[None] < len(newest),
        )
