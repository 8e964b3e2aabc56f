"""What table item_activity must hold, recomputed from topic item-activity one event at a time.

The plain counterpart of domain/item_activity.py: dictionaries, no arrays of rows, no batches. It shares with the fold
the contracts alone: record types, validity, window declarations and packed formats. Values of snapshots are compared
to 1e-6, everything else exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from domain.activity_events import check_item_activity, unpacked_activity
from domain.activity_row import ACTIVITY_WINDOWS, FINGERPRINT, NO_SNAPSHOT
from domain.windows import LONGEST_MS, TILE_DTYPE, WINDOWS
from schemas.deployment import Deployment
from schemas.records import ACTIONS, ItemActivityRow
from streams.fold import SourceRecord
from streams.oracle import Oracle

__all__ = ["ActivityOracle", "PlainItem"]

_TOLERANCE: Final = 1e-6
_FEATURES: Final = len(ACTIVITY_WINDOWS) * len(ACTIONS)


@dataclass
class PlainItem:
    """An item as one event at a time makes it. Tiles are (window, start in ms, action) -> events."""

    newest_ms: int
    snapshot_ms: int = NO_SNAPSHOT
    snapshot: list[float] = field(default_factory=list)
    counts: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def count(self, time_ms: int, action: int) -> None:
        """Take an event that is not late."""
        self.newest_ms = max(self.newest_ms, time_ms)
        for number, window in enumerate(WINDOWS):
            if window in ACTIVITY_WINDOWS:
                place = number, time_ms // window.tile_ms * window.tile_ms, action
                self.counts[place] = self.counts.get(place, 0) + 1
        expired = [place for place in self.counts if not self._kept(place)]
        for place in expired:
            del self.counts[place]

    def take_snapshot(self) -> None:
        """The counts at the newest event."""
        totals = dict.fromkeys(
            ((WINDOWS.index(window), action) for window in ACTIVITY_WINDOWS for action in range(len(ACTIONS))), 0
        )
        for (number, _, action), count in self.counts.items():
            totals[number, action] += count
        self.snapshot_ms, self.snapshot = self.newest_ms, [math.log1p(total) for total in totals.values()]

    def tiles(self) -> list[tuple[int, int]]:
        """(cell, count), as a row has them."""
        return sorted(
            (number << 7 | start // WINDOWS[number].tile_ms % 8 << 4 | action, count)
            for (number, start, action), count in self.counts.items()
        )

    def _kept(self, tile: tuple[int, int, int]) -> bool:
        """Whether the window at the newest event reaches back to a tile."""
        window = WINDOWS[tile[0]]
        return tile[1] // window.tile_ms >= (self.newest_ms - window.length_ms) // window.tile_ms


class ActivityOracle(Oracle):
    """Table item_activity of one partition after a log.

    Of every item's snapshots it knows the newest, and the one of the time that `wanted` has for the item.
    """

    schema = "item_activity"

    def __init__(self, deployment: Deployment, topic_id: int, wanted: Mapping[int, int] | None = None) -> None:
        super().__init__(deployment, topic_id)
        self._wanted = wanted or {}
        self.items: dict[int, PlainItem] = {}
        #: (source topic id, source partition) -> offset below which everything is counted
        self.next_offset: dict[tuple[int, int], int] = {}
        self._found: dict[int, list[float]] = {}
        self._restored_ms: dict[int, int] = {}

    def check(self, decoded: Any, record: SourceRecord) -> None:
        """See Oracle."""
        check_item_activity(decoded, record.key, record.timestamp, self._deployment)

    def accept(self, offset: int, decoded: Any) -> None:
        """See Oracle."""
        source = decoded["source_topic_id"], decoded["source_partition"]
        for delta, item, time_ms, action in unpacked_activity(decoded).tolist():
            if decoded["first_offset"] + delta >= self.next_offset.get(source, 0):
                self.take(item, time_ms, action)
        self.next_offset[source] = max(self.next_offset.get(source, 0), decoded["next_offset"])

    def take(self, item: int, time_ms: int, action: int) -> None:
        """Take an event that is no repetition."""
        state = self.items.setdefault(item, PlainItem(time_ms))
        if time_ms < state.newest_ms - LONGEST_MS:
            return
        state.count(time_ms, action)
        interval_ms = self._deployment.reembed_interval_ms
        if state.snapshot_ms == NO_SNAPSHOT or state.newest_ms - state.snapshot_ms >= interval_ms:
            state.take_snapshot()
            if self._wanted.get(item) == state.snapshot_ms:
                self._found[item] = state.snapshot

    def restored(self) -> None:
        """The items were put in from a checkpoint: their snapshots are the first that are known."""
        for item, state in self.items.items():
            self._restored_ms[item] = state.snapshot_ms
            if self._wanted.get(item) == state.snapshot_ms:
                self._found[item] = state.snapshot

    def newest_ms(self, item: int) -> int:
        """Time of an item's newest snapshot, NO_SNAPSHOT where it has none."""
        return self.items[item].snapshot_ms if item in self.items else NO_SNAPSHOT

    def snapshot(self, item: int, made_ms: int) -> list[float] | None:
        """An item's snapshot of the time that was wanted; None where it is not known."""
        return [0.0] * _FEATURES if made_ms == NO_SNAPSHOT else self._found.get(item)

    def forgotten(self, item: int, made_ms: int) -> bool:
        """Whether the snapshot is from before the checkpoint's: the log that had it is gone."""
        return item in self._restored_ms and made_ms < self._restored_ms[item]

    def difference(self, item: int, row: ItemActivityRow | None) -> str:
        """What is wrong with a row of the table; empty where it is right."""
        expected = self.items.get(item)
        if expected is None:
            return "" if row is None else "the log has no such item"
        if row is None:
            return "missing"
        snapshot = np.frombuffer(row["snapshot"], dtype="<f4").tolist()
        for name, found, wanted in (
            ("fingerprint", row["fingerprint"], FINGERPRINT),
            ("newest_event_time_ms", row["newest_event_time_ms"], expected.newest_ms),
            ("snapshot_ms", row["snapshot_ms"], expected.snapshot_ms),
            ("tiles", np.frombuffer(row["tiles"], dtype=TILE_DTYPE).tolist(), expected.tiles()),
        ):
            if found != wanted:
                return f"{name} is {found!r}, expected {wanted!r}"
        if not np.allclose(snapshot, expected.snapshot, rtol=_TOLERANCE, atol=_TOLERANCE):
            return f"snapshot is {snapshot!r}, expected {expected.snapshot!r}"
        return ""
