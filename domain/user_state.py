"""One user's row: window tiles, newest behaviours, recent event ids; and the fold that carries it over a batch.

The fold is pure and equals, bit for bit, folding one event at a time in log order. For each event:

1. its offset is not above the row's `source_offset` of the same topic id: *replayed*, the row already has it;
2. its id is among the row's last 32 (duplicates.py): *duplicate*;
3. it is older than the row's newest event time by more than the longest window: *late*;
4. otherwise it counts in its tile of every window (windows.py) and is the newest behaviour in log order.

Whatever is not replayed moves `source_offset`; whatever is neither replayed nor duplicate is remembered by id. So a
row depends on its user's log alone and not on how the log was cut into batches.

Cost: about 2 us an event where a batch of 2,000 touches 600 full rows. Up to half of it is page faults of temporary
arrays, unless malloc keeps freed memory (MALLOC_TRIM_THRESHOLD_). Loops over users only cut and join bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.duplicates import EVENT_IDS, find_duplicates
from domain.windows import LONGEST_MS, TILE_DTYPE, WINDOWS, count_windows, merge_tiles
from schemas.errors import Corrupt
from schemas.ids import hashed_id
from schemas.records import ACTION_CODES, ACTIONS, UserEvent, UserHead

__all__ = [
    "BEHAVIOURS",
    "BEHAVIOUR_DTYPE",
    "FINGERPRINT",
    "EventBatch",
    "Folded",
    "behaviours_of",
    "fold",
    "window_counts",
]

#: Newest behaviours that a row keeps.
BEHAVIOURS: Final = 32

#: A packed behaviour; `category_id` is meaningful with `has_category`, `action` is an action code.
BEHAVIOUR_DTYPE: Final = np.dtype(
    [("item_id", "<i8"), ("event_time_ms", "<i8"), ("category_id", "<i8"), ("has_category", "?"), ("action", "u1")]
)

#: Of everything that decides what a row's bytes mean; part of every row and of a model's manifest.
FINGERPRINT: Final = hashed_id(
    repr([list(map(tuple, WINDOWS)), TILE_DTYPE.descr, BEHAVIOUR_DTYPE.descr, BEHAVIOURS, EVENT_IDS, ACTIONS])
)

# Older than any event, and far enough from the ends of int64 that windows before it do not wrap.
_NEVER: Final = -(2**61)
_IDS_BYTES: Final = EVENT_IDS * np.dtype(np.int64).itemsize
_BEHAVIOURS_BYTES: Final = BEHAVIOURS * BEHAVIOUR_DTYPE.itemsize
_COLUMNS: Final = itemgetter("event_id", "user_id", "item_id", "event_time_ms", "action", "category_id", "value")


@dataclass(frozen=True)
class EventBatch:
    """Events of one partition in log order, as columns of equal length.

    `category_id` and `value` are 0 where the event has none. Event times lie within +-2**60 ms.
    """

    offset: npt.NDArray[np.int64]
    event_id: npt.NDArray[np.int64]
    user_id: npt.NDArray[np.int64]
    item_id: npt.NDArray[np.int64]
    event_time_ms: npt.NDArray[np.int64]
    action: npt.NDArray[np.uint8]
    category_id: npt.NDArray[np.int64]
    has_category: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float64]

    @classmethod
    def of(cls, offsets: Sequence[int], records: Sequence[UserEvent]) -> EventBatch:
        """The columns of decoded events at these offsets."""
        if not records:
            none = np.zeros(0, dtype=np.int64)
            return cls(none, none, none, none, none, none.astype("u1"), none, none.astype("?"), none.astype("f8"))
        ids, users, items, times, actions, categories, values = zip(*map(_COLUMNS, records), strict=True)
        return cls(
            offset=np.array(offsets, dtype=np.int64),
            event_id=np.array(ids, dtype=np.int64),
            user_id=np.array(users, dtype=np.int64),
            item_id=np.array(items, dtype=np.int64),
            event_time_ms=np.array(times, dtype=np.int64),
            action=np.array([ACTION_CODES[action] for action in actions], dtype=np.uint8),
            category_id=np.array([0 if category is None else category for category in categories], dtype=np.int64),
            has_category=np.array([category is not None for category in categories], dtype=np.bool_),
            value=np.array([0.0 if value is None else value for value in values], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, chosen: npt.NDArray[Any]) -> EventBatch:
        """The events at these indices, or where this mask holds."""
        return EventBatch(**{name: column[chosen] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Folded:
    """What a batch did: the rows it changed, and how many events it left out, by cause."""

    heads: dict[int, UserHead]
    duplicates: int
    replayed: int
    late: int


@dataclass(frozen=True)
class _Touched:
    """A batch sorted by user, log order kept within a user, with each user's row (None: none yet)."""

    users: npt.NDArray[np.int64]
    rows: list[UserHead | None]
    events: EventBatch
    owner: npt.NDArray[np.int64]

    @classmethod
    def by(cls, heads: Mapping[int, UserHead], batch: EventBatch) -> _Touched:
        events = batch.take(np.argsort(batch.user_id, kind="stable"))
        first = np.ones(len(events), dtype=np.bool_)
        first[1:] = events.user_id[1:] != events.user_id[:-1]
        users = events.user_id[first]
        return cls(users, [heads.get(user) for user in users.tolist()], events, np.cumsum(first) - 1)


def fold(heads: Mapping[int, UserHead], batch: EventBatch, topic_id: int) -> Folded:
    """Fold a batch into the rows of its users; `heads` has the row of every user that has one, and is not changed.

    Raises Corrupt where offsets do not ascend or a row is of other window declarations.
    """
    if not len(batch):
        return Folded({}, 0, 0, 0)
    if (batch.offset[1:] <= batch.offset[:-1]).any():
        raise Corrupt("offsets of a batch must ascend: it is not one partition in log order")
    touched = _Touched.by(heads, batch)
    _check(touched.rows)
    applied = np.array(
        [row["source_offset"] if row and row["source_topic_id"] == topic_id else -1 for row in touched.rows], dtype="i8"
    )
    fresh = touched.events.offset > applied[touched.owner]
    replayed = len(fresh) - int(fresh.sum())
    if replayed == len(batch):
        return Folded({}, 0, replayed, 0)
    if replayed:
        in_log_order = np.isin(batch.offset, touched.events.offset[fresh], assume_unique=True)
        touched = _Touched.by(heads, batch.take(in_log_order))
    return _fold_fresh(touched, topic_id, replayed)


def _fold_fresh(touched: _Touched, topic_id: int, replayed: int) -> Folded:
    rows, owner, events = touched.rows, touched.owner, touched.events
    remembered = [row["event_ids"] if row else b"" for row in rows]
    duplicate = find_duplicates(remembered, events.event_id, owner)
    tiles, tile_owner, before = _tiles_of(rows)
    late = _late(events.event_time_ms, owner, before, ~duplicate)
    counted = ~(duplicate | late)
    kept, kept_owner = (events, owner) if counted.all() else (events.take(counted), owner[counted])
    newest = before.copy()
    np.maximum.at(newest, kept_owner, kept.event_time_ms)

    merged, tile_counts = merge_tiles(tiles, tile_owner, before, kept.event_time_ms, kept.action, kept_owner, newest)
    users = len(rows)
    new_ids = _cut(events.event_id[~duplicate], np.bincount(owner[~duplicate], minlength=users))
    new_behaviours = _cut(_behaviours(kept), np.bincount(kept_owner, minlength=users))
    last = np.append(np.flatnonzero(np.diff(owner)), len(owner) - 1)
    columns = zip(
        touched.users.tolist(),
        rows,
        remembered,
        events.offset[last].tolist(),
        newest.tolist(),
        new_ids,
        _cut(merged, tile_counts),
        new_behaviours,
        strict=True,
    )
    changed: dict[int, UserHead] = {}
    for user, row, ids, offset, newest_ms, more_ids, row_tiles, more_behaviours in columns:
        changed[user] = {
            "fingerprint": FINGERPRINT,
            "source_topic_id": topic_id,
            "source_offset": offset,
            "newest_event_time_ms": newest_ms,
            "event_ids": (ids + more_ids)[-_IDS_BYTES:],
            "tiles": row_tiles,
            "behaviours": ((row["behaviours"] if row else b"") + more_behaviours)[-_BEHAVIOURS_BYTES:],
        }
    return Folded(changed, int(duplicate.sum()), replayed, int(late.sum()))


def _late(
    times: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    newest: npt.NDArray[np.int64],
    eligible: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Which eligible events came after one of their user that is newer by more than the longest window ([n] bool)."""
    final = newest.copy()
    np.maximum.at(final, owner[eligible], times[eligible])
    if not (eligible & (times < final[owner] - LONGEST_MS)).any():
        return np.zeros(len(times), dtype=np.bool_)
    # The newest time at each event: a running maximum that starts anew at each user, over ranks so that a user's
    # values can be lifted above those of the users before without overflow.
    seen = np.where(eligible, np.maximum(times, newest[owner]), newest[owner])
    values, rank = np.unique(seen, return_inverse=True)
    running = values[np.maximum.accumulate(owner * len(values) + rank) % len(values)]
    return np.asarray(eligible & (times < running - LONGEST_MS))


def _behaviours(events: EventBatch) -> npt.NDArray[Any]:
    packed = np.empty(len(events), dtype=BEHAVIOUR_DTYPE)
    for name in BEHAVIOUR_DTYPE.names or ():
        packed[name] = getattr(events, name)
    return packed


def _cut(packed: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> list[bytes]:
    """The bytes of consecutive runs of `counts` elements."""
    raw, ends = packed.tobytes(), (np.cumsum(counts) * packed.itemsize).tolist()
    return [raw[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _tiles_of(
    rows: Sequence[UserHead | None],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All tiles, the row of each, and every row's newest event time."""
    packed = [row["tiles"] if row else b"" for row in rows]
    counts = np.array([len(tiles) for tiles in packed], dtype=np.int64) // TILE_DTYPE.itemsize
    newest = np.array([row["newest_event_time_ms"] if row else _NEVER for row in rows], dtype=np.int64)
    return np.frombuffer(b"".join(packed), dtype=TILE_DTYPE), np.repeat(np.arange(len(rows)), counts), newest


def _check(rows: Sequence[UserHead | None]) -> None:
    for row in rows:
        if row and row["fingerprint"] != FINGERPRINT:
            raise Corrupt(
                f"a user row has fingerprint {row['fingerprint']}, this build {FINGERPRINT}: "
                "its windows are declared otherwise; rebuild table users from its log"
            )


def window_counts(heads: Sequence[UserHead | None], at_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Events by window and action of each user at its own time ([n] int64 ms -> [n, windows, actions] float32).

    Zeros for a user without a row, and for an idle one whose tiles have all expired at `at_ms`. See windows.py for
    what a window at a time is. Raises Corrupt where a row is of other window declarations.
    """
    _check(heads)
    return count_windows(*_tiles_of(heads), at_ms)


def behaviours_of(head: UserHead | None) -> npt.NDArray[Any]:
    """The newest behaviours in log order ([<= 32] BEHAVIOUR_DTYPE, read-only). Raises Corrupt as window_counts does."""
    _check([head])
    return np.frombuffer(head["behaviours"] if head else b"", dtype=BEHAVIOUR_DTYPE)
