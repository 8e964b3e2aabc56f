"""One user's row: window tiles, declared features, newest behaviours, recent event ids; and the fold over a batch.

The fold is pure and equals, bit for bit, folding one event at a time in log order. For each event:

1. its offset is not above the row's `source_offset` of the same topic id: *replayed*, the row already has it;
2. the row's newest event time lies more than IDLE_MS behind the partition's clock, this event included: the row is
   *expired*, and this event begins a new one (a sweep may have deleted it meanwhile: no one can tell);
3. its id is among the row's last 32 (the rule of duplicates.py): *duplicate*;
4. it is older than the row's newest event time by more than the longest window: *late*;
5. otherwise it counts in its tile of every window (windows.py), in the declared features (feature_plan.py), and is the
   newest behaviour in log order (sequence.py).

Whatever is not replayed moves `source_offset`; whatever is neither replayed nor duplicate is remembered by id. The
partition's clock is the newest event time of its valid events so far, so a row depends on its partition's log alone
and not on how the log was cut into batches.

The loop over events is compiled (user_kernel.py); loops over users here only cut and join bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.duplicates import EVENT_IDS
from domain.feature_plan import PLAN, Plan
from domain.features import RANKED
from domain.moving import move, moves
from domain.sequence import BEHAVIOUR_DTYPE, CHUNK, held_chunks
from domain.user_kernel import COUNTED, DUPLICATE, LATE, NEVER, REPLAYED, fold_events
from domain.user_row import FINGERPRINT, RANKED_DTYPE, VALUE_DTYPE, check_rows
from domain.windows import TILE_DTYPE, WINDOWS
from schemas.errors import Corrupt
from schemas.records import ACTION_CODES, UserEvent, UserHead

__all__ = ["IDLE_MS", "EventBatch", "Folded", "fold", "open_chunks"]

#: A row without an event for this long, by its partition's clock, ends: two years, beyond any window and any training.
IDLE_MS: Final = 2 * 365 * 86_400_000

_COLUMNS: Final = itemgetter("event_id", "user_id", "item_id", "event_time_ms", "action", "category_id", "value")
#: Packed columns of a row that the kernel reads, with the types of what they hold.
_PACKED: Final = (("tiles", TILE_DTYPE), ("values", VALUE_DTYPE), ("ranked", RANKED_DTYPE))


@dataclass(frozen=True)
class EventBatch:
    """Events of one partition in log order, as columns of equal length.

    Where the event has none, `category_id` is 0 and `value` is NaN: 0 is a value. Event times lie within +-2**52 ms.
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
            value=np.array([np.nan if value is None else value for value in values], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, chosen: npt.NDArray[Any]) -> EventBatch:
        """The events at these indices, or where this mask holds."""
        return EventBatch(**{name: column[chosen] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Folded:
    """What a batch did: the rows it changed, and how many events it left out, by cause.

    `chunks` are the rows behind heads that changed, by (user, number): packed behaviours, None where one goes.
    `clock_ms` is the partition's clock after the batch; `verdicts` has what came of each event (COUNTED, REPLAYED,
    DUPLICATE or LATE of user_kernel.py), in the order of the batch.
    """

    heads: dict[int, UserHead]
    duplicates: int
    replayed: int
    late: int
    expired: int = 0
    chunks: dict[tuple[int, int], bytes | None] = field(default_factory=dict)
    clock_ms: int = NEVER
    verdicts: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, dtype=np.int8), compare=False)


def open_chunks(heads: Mapping[int, UserHead], batch: EventBatch) -> list[tuple[int, int]]:
    """Chunks (user, number) that `fold` may have to extend: of users whose heads may overflow."""
    users, counts = np.unique(batch.user_id, return_counts=True)
    return [
        (user, row["moved"] // CHUNK)
        for user, count in zip(users.tolist(), counts.tolist(), strict=True)
        if (row := heads.get(user)) and row["moved"] % CHUNK and moves(len(row["behaviours"]), count)
    ]


def fold(
    heads: Mapping[int, UserHead],
    batch: EventBatch,
    topic_id: int,
    *,
    chunks: Mapping[tuple[int, int], bytes] | None = None,
    clock_ms: int | npt.NDArray[np.int64] = NEVER,
    idle_ms: int = IDLE_MS,
    plan: Plan = PLAN,
) -> Folded:
    """Fold a batch into the rows of its users; `heads` has the row of every user that has one, and is not changed.

    `chunks` has those that `open_chunks` names, `clock_ms` is the partition's clock before the batch, or at each event
    where the batch is a part of the log. Raises Corrupt where offsets do not ascend, a chunk is not there, or a row is
    laid out or declared otherwise (migration.py).
    """
    if not len(batch):
        return Folded({}, 0, 0, 0, clock_ms=int(np.max(clock_ms, initial=NEVER)))
    if (batch.offset[1:] <= batch.offset[:-1]).any():
        raise Corrupt("offsets of a batch must ascend: it is not one partition in log order")
    clock = np.maximum.accumulate(np.maximum(batch.event_time_ms, clock_ms))
    order = np.argsort(batch.user_id, kind="stable")
    events = batch.take(order)
    edge = np.flatnonzero(events.user_id[1:] != events.user_id[:-1]) + 1
    first = np.concatenate([[0], edge, [len(events)]])
    users: list[int] = events.user_id[first[:-1]].tolist()
    rows = [heads.get(user) for user in users]
    check_rows(rows, plan)
    state = _State.of(rows, topic_id, len(events), plan)
    state.run(first, events, clock[order], idle_ms, plan)
    changed, moved_chunks = _assemble(users, rows, first, events, state, topic_id, plan, chunks or {})
    counts = np.bincount(state.verdict, minlength=4)
    verdicts = np.empty(len(events), dtype=np.int8)
    verdicts[order] = state.verdict
    return Folded(
        changed,
        int(counts[DUPLICATE]),
        int(counts[REPLAYED]),
        int(counts[LATE]),
        int((state.start >= 0).sum()),
        moved_chunks,
        int(clock[-1]),
        verdicts,
    )


class _State:
    """What the kernel reads and writes of the rows of a batch."""

    def __init__(self, rows: list[UserHead | None], applied: list[int], events: int, plan: Plan) -> None:
        count = len(rows)
        self.applied = np.array(applied, dtype=np.int64)
        self.newest = np.array([row["newest_event_time_ms"] if row else NEVER for row in rows], dtype=np.int64)
        width = EVENT_IDS * 8
        held = [row["event_ids"] if row else b"" for row in rows]
        self.ids = np.frombuffer(bytearray().join([ids.ljust(width, b"\0") for ids in held]), dtype=np.int64)
        self.ids = self.ids.reshape(count, EVENT_IDS)
        self.ids_held = np.array([len(ids) // 8 for ids in held], dtype=np.int64)
        self.packed: list[npt.NDArray[Any]] = []
        self.firsts: list[npt.NDArray[np.int64]] = []
        for name, dtype in _PACKED:
            parts = [row[name] if row else b"" for row in rows]  # type: ignore[literal-required]
            self.packed.append(np.frombuffer(bytearray().join(parts), dtype=dtype))
            self.firsts.append(np.concatenate([[0], np.cumsum([len(part) for part in parts]) // dtype.itemsize]))
        levels = len(WINDOWS)
        most = (
            len(self.packed[0]) + events * (levels + len(plan.sketches)),
            len(self.packed[1]) + events * (len(plan.amounts) + len(plan.scalars)),
            min(len(self.packed[2]) + events * len(plan.rankings), count * RANKED * len(plan.rankings)),
        )
        self.out = tuple(
            tuple(np.empty(size, dtype=dtype[name]) for name in dtype.names or ())
            for size, (_, dtype) in zip(most, _PACKED, strict=True)
        )
        self.ends = np.zeros((count, len(_PACKED)), dtype=np.int64)
        self.verdict = np.empty(events, dtype=np.int64)
        self.start = np.empty(count, dtype=np.int64)

    @classmethod
    def of(cls, rows: list[UserHead | None], topic_id: int, events: int, plan: Plan) -> _State:
        """The state of these rows, before so many events of a topic."""
        applied = [row["source_offset"] if row and row["source_topic_id"] == topic_id else -1 for row in rows]
        return cls(rows, applied, events, plan)

    def run(
        self,
        first: npt.NDArray[np.int64],
        events: EventBatch,
        clock: npt.NDArray[np.int64],
        idle_ms: int,
        plan: Plan,
    ) -> None:
        columns = (
            events.offset, events.event_id, events.item_id, events.event_time_ms, events.action, events.category_id,
            events.has_category, events.value,
        )  # fmt: skip
        # Columns and not records: compiled code reaches them ten times faster.
        packed = tuple(
            piece
            for array, first_of_row in zip(self.packed, self.firsts, strict=True)
            for piece in (tuple(np.ascontiguousarray(array[name]) for name in array.dtype.names or ()), first_of_row)
        )
        fold_events(
            first, columns, clock, idle_ms, self.applied, self.newest, self.ids, self.ids_held, packed, plan.kernel,
            self.verdict, self.start, self.out, self.ends,
        )  # fmt: skip

    def cut(self, column: int) -> list[bytes]:
        """Each row's new bytes of a packed column."""
        itemsize = _PACKED[column][1].itemsize
        ends: list[int] = (self.ends[:, column] * itemsize).tolist()
        joined = np.empty(self.ends[-1, column], dtype=_PACKED[column][1])
        for name, values in zip(joined.dtype.names or (), self.out[column], strict=True):
            joined[name] = values[: len(joined)]
        raw = joined.tobytes()
        return [raw[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _assemble(
    users: list[int],
    rows: list[UserHead | None],
    first: npt.NDArray[np.int64],
    events: EventBatch,
    state: _State,
    topic_id: int,
    plan: Plan,
    chunks: Mapping[tuple[int, int], bytes],
) -> tuple[dict[int, UserHead], dict[tuple[int, int], bytes | None]]:
    """Rows that changed, and chunks."""
    joining = _joining(first, events, state)
    ids, declarations = state.ids.tobytes(), plan.fingerprint
    width = EVENT_IDS * 8
    changed: dict[int, UserHead] = {}
    moved_chunks: dict[tuple[int, int], bytes | None] = {}
    columns = zip(
        users, rows, state.applied.tolist(), state.newest.tolist(), state.ids_held.tolist(), state.start.tolist(),
        state.cut(0), state.cut(1), state.cut(2), joining, range(0, len(ids), width), strict=True,
    )  # fmt: skip
    for user, row, offset, newest, held, start, tiles, values, ranked, more, at in columns:
        if row and row["source_offset"] == offset and row["source_topic_id"] == topic_id:
            continue  # every event was replayed
        behaviours, moved, index = more, 0, b""
        if row and start < 0:
            behaviours, moved, index = row["behaviours"] + more, row["moved"], row["category_index"]
        elif row:
            moved_chunks.update(dict.fromkeys((user, number) for number in held_chunks(row["moved"])))
        if moves(len(behaviours), 0):
            done = move(behaviours, moved, index, chunks.get((user, moved // CHUNK), b"") if moved % CHUNK else b"")
            behaviours, moved, index = done.behaviours, done.moved, done.category_index
            moved_chunks.update({(user, number): chunk for number, chunk in done.chunks.items()})
        changed[user] = {
            "fingerprint": FINGERPRINT,
            "source_topic_id": topic_id,
            "source_offset": offset,
            "newest_event_time_ms": newest,
            "event_ids": ids[at : at + 8 * held],
            "tiles": tiles,
            "behaviours": behaviours,
            "declarations": declarations,
            "values": values,
            "ranked": ranked,
            "moved": moved,
            "category_index": index,
        }
    return changed, moved_chunks


def _joining(first: npt.NDArray[np.int64], events: EventBatch, state: _State) -> list[bytes]:
    """Packed behaviours that join each row's sequence."""
    joins = state.verdict == COUNTED
    for row in np.flatnonzero(state.start >= 0).tolist():
        joins[first[row] : state.start[row]] = False  # of the row that expired
    packed = np.empty(int(joins.sum()), dtype=BEHAVIOUR_DTYPE)
    for name in BEHAVIOUR_DTYPE.names or ():
        packed[name] = getattr(events, name)[joins]
    raw = packed.tobytes()
    ends: list[int] = (np.cumsum(joins)[first[1:] - 1] * BEHAVIOUR_DTYPE.itemsize).tolist()
    return [raw[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
