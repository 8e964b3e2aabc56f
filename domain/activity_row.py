"""An item's row in table item_activity: what its bytes mean, and the snapshot that the item tower reads of it.

A row counts what users did to an item, in tiles of windows.py but for its shortest window. An item's vector is made
with a *snapshot* of those counts and not with the counts themselves, so that a hot item is embedded once an interval
of event time and not at every click. The snapshot is taken while events are folded, in log order, so that it is a
function of the log alone; its event time names it.

Loads no compiler, so that readers start fast; the fold that writes rows is item_activity.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.windows import SLOTS, TILE_DTYPE, WINDOWS
from schemas.errors import Corrupt
from schemas.ids import hashed_id
from schemas.records import ACTIONS

__all__ = [
    "ACTIVITY_FEATURES",
    "ACTIVITY_WINDOWS",
    "FINGERPRINT",
    "NO_SNAPSHOT",
    "Snapshots",
    "check_fingerprints",
    "snapshot_features",
]

#: Windows over an item's events. Five minutes would be over before a vector that follows them is served.
ACTIVITY_WINDOWS: Final = WINDOWS[1:]
#: Values of a snapshot: one for each window and action, window by window.
ACTIVITY_FEATURES: Final = len(ACTIVITY_WINDOWS) * len(ACTIONS)
#: Time of the snapshot of an item without one; event times are not negative.
NO_SNAPSHOT: Final = -1

#: Of everything that decides what a row's bytes mean.
FINGERPRINT: Final = hashed_id(
    repr([list(map(tuple, WINDOWS)), SLOTS, len(ACTIVITY_WINDOWS), ACTIONS, TILE_DTYPE.descr])
)


@dataclass(frozen=True)
class Snapshots:
    """Snapshots of n items' activity."""

    made_ms: npt.NDArray[np.int64]  #: [n] event times, NO_SNAPSHOT where an item has none
    features: npt.NDArray[np.float32]  #: [n, ACTIVITY_FEATURES], zeros where an item has none

    def __len__(self) -> int:
        return len(self.made_ms)

    @classmethod
    def none(cls, count: int) -> Snapshots:
        """Of so many items without activity."""
        features = np.zeros((count, ACTIVITY_FEATURES), dtype=np.float32)
        return cls(np.full(count, NO_SNAPSHOT, dtype=np.int64), features)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any] | None]) -> Snapshots:
        """Those of rows of table item_activity (their first fields are enough), None for an item without a row.

        Raises Corrupt where a row is of another layout.
        """
        snapshots = cls.none(len(rows))
        held = [place for place, row in enumerate(rows) if row is not None]
        if held:
            found: list[Any] = [rows[place] for place in held]
            check_fingerprints(found)
            snapshots.made_ms[held] = [row["snapshot_ms"] for row in found]
            joined = b"".join([row["snapshot"] for row in found])
            snapshots.features[held] = np.frombuffer(joined, dtype="<f4").reshape(len(held), ACTIVITY_FEATURES)
        return snapshots

    def take(self, chosen: Sequence[int] | npt.NDArray[Any]) -> Snapshots:
        """Some of them, by place."""
        return Snapshots(self.made_ms[chosen], self.features[chosen])


def snapshot_features(counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Tower inputs of counts ([n, ACTIVITY_FEATURES] -> [n, ACTIVITY_FEATURES] float32)."""
    return np.asarray(np.log1p(counts, dtype=np.float64), dtype=np.float32)


def check_fingerprints(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise Corrupt where a row is of another layout."""
    for row in rows:
        if row["fingerprint"] != FINGERPRINT:
            raise Corrupt(
                f"a row of item_activity has fingerprint {row['fingerprint']}, this build {FINGERPRINT}: its bytes are "
                "laid out otherwise; rebuild table item_activity from its log"
            )
