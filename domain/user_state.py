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

Rows are the encoded records of schema user_head, before and after. The loop over events is compiled (user_kernel.py)
and reads and writes them as they are; loops over users here only look rows up and cut them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.feature_plan import PLAN, Plan
from domain.moving import chunks_after, open_chunk
from domain.sequence import BLOCK, held_chunks
from domain.sequence_kernel import BEHAVIOUR_BYTES
from domain.user_kernel import DUPLICATE, LATE, NEVER, REPLAYED, ROW_BYTES, event_bytes, fold_rows, scratch_of
from domain.user_row import check_rows, row_prefix
from schemas.codec import codec
from schemas.errors import BadRecord, Corrupt
from schemas.records import ACTION_CODES, UserEvent

__all__ = ["IDLE_MS", "ChunkReader", "EventBatch", "Folded", "fold"]

#: A row without an event for this long, by its partition's clock, ends: two years, beyond any window and any training.
IDLE_MS: Final = 2 * 365 * 86_400_000

_COLUMNS: Final = itemgetter("event_id", "user_id", "item_id", "event_time_ms", "action", "category_id", "value")
#: Gives packed behaviours of chunks by (user, number), those that are there.
ChunkReader = Callable[[list[tuple[int, int]]], Mapping[tuple[int, int], bytes]]


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
    """What a batch did: the rows it changed, encoded, and how many events it left out, by cause.

    `chunks` are the rows behind heads that changed, by (user, number): packed behaviours, None where one goes.
    `clock_ms` is the partition's clock after the batch. `verdicts` ([events] int8, in the order of the batch) says of
    each event COUNTED, REPLAYED, DUPLICATE or LATE of user_kernel.py.
    """

    heads: dict[int, bytes]
    duplicates: int
    replayed: int
    late: int
    expired: int = 0
    chunks: dict[tuple[int, int], bytes | None] = field(default_factory=dict)
    clock_ms: int = NEVER
    verdicts: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, dtype=np.int8), compare=False)


def _no_chunks(wanted: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    return {}


def fold(
    heads: Mapping[int, bytes],
    batch: EventBatch,
    topic_id: int,
    *,
    read_chunks: ChunkReader = _no_chunks,
    clock_ms: int | npt.NDArray[np.int64] = NEVER,
    idle_ms: int = IDLE_MS,
    plan: Plan = PLAN,
) -> Folded:
    """Fold a batch into the rows of its users; `heads` has the row of every user that has one, and is not changed.

    `read_chunks` is asked once, for the open chunks of users whose heads overflow. `clock_ms` is the partition's clock
    before the batch, or at each event where the batch is a part of the log. Raises Corrupt where offsets do not ascend,
    a chunk is not there, or a row is laid out or declared otherwise (migration.py).
    """
    if not len(batch):
        return Folded({}, 0, 0, 0, clock_ms=int(np.max(clock_ms, initial=NEVER)))
    if (batch.offset[1:] <= batch.offset[:-1]).any():
        raise Corrupt("offsets of a batch must ascend: it is not one partition in log order")
    clock = np.maximum.accumulate(np.maximum(batch.event_time_ms, clock_ms))
    order = np.argsort(batch.user_id, kind="stable")
    user_id = batch.user_id[order]
    first = np.flatnonzero(np.concatenate([[True], user_id[1:] != user_id[:-1], [True]]))
    users: list[int] = user_id[first[:-1]].tolist()
    rows = [heads.get(user, b"") for user in users]
    done = _run(rows, order, first, batch, clock, topic_id, idle_ms, plan)
    counts = np.bincount(done.verdicts, minlength=4)
    return Folded(
        {user: row for user, row in zip(users, done.rows(), strict=True) if row},
        int(counts[DUPLICATE]),
        int(counts[REPLAYED]),
        int(counts[LATE]),
        int(done.expired.sum()),
        dict(_chunks(users, done, read_chunks)),
        int(clock[-1]),
        done.verdicts,
    )


@dataclass(frozen=True)
class _Done:
    """What the kernel wrote: see user_kernel.fold_rows."""

    verdicts: npt.NDArray[np.int8]
    out: npt.NDArray[np.uint8]
    out_at: npt.NDArray[np.int64]
    counted: npt.NDArray[np.int64]
    expired: npt.NDArray[np.int64]
    blocks: npt.NDArray[np.uint8]
    block_at: npt.NDArray[np.int64]

    def rows(self) -> Iterator[bytes]:
        """The rows, empty where nothing changed."""
        ends: list[int] = self.out_at.tolist()
        raw = self.out[: ends[-1]].tobytes()
        return map(raw.__getitem__, map(slice, ends, ends[1:]))


def _run(
    rows: list[bytes],
    order: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    batch: EventBatch,
    clock: npt.NDArray[np.int64],
    topic_id: int,
    idle_ms: int,
    plan: Plan,
) -> _Done:
    count, events = len(rows), len(batch)
    held = b"".join(rows)
    row_at = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, rows), np.int64, count), out=row_at[1:])
    prefix = row_prefix(plan.fingerprint)
    done = _Done(
        verdicts=np.empty(events, dtype=np.int8),
        out=np.empty(len(held) + count * ROW_BYTES + events * event_bytes(plan.kernel), dtype=np.uint8),
        out_at=np.empty(count + 1, dtype=np.int64),
        counted=np.empty((count, 2), dtype=np.int64),
        expired=np.empty(count, dtype=np.int64),
        blocks=np.empty(len(held) + events * BEHAVIOUR_BYTES, dtype=np.uint8),
        block_at=np.empty(events + 1, dtype=np.int64),
    )
    columns = tuple(
        np.require(column, requirements=("C", "W"))
        for column in (
            batch.offset, batch.event_id, batch.item_id, batch.event_time_ms, batch.action, batch.category_id,
            batch.has_category, batch.value,
        )
    )  # fmt: skip
    # The kernel is compiled for these types alone.
    moved = fold_rows(
        np.frombuffer(held, dtype=np.uint8), row_at, np.frombuffer(prefix, dtype=np.uint8), topic_id, order, first,
        columns, clock, idle_ms, plan.kernel, done.verdicts, done.out, done.out_at, done.counted, done.expired,
        done.blocks, done.block_at, scratch_of(plan.kernel),
    )  # fmt: skip
    if moved < 0:
        raise _refused(rows[-1 - moved], plan)
    return done


def _refused(row: bytes, plan: Plan) -> Corrupt:
    """Why the kernel did not take a row."""
    try:
        check_rows([codec("user_head").decode(row)], plan)  # type: ignore[list-item]
    except Corrupt as error:
        return error
    except BadRecord as error:
        return Corrupt(f"a user row is damaged ({error}): rebuild table users from its changelog or log")
    return Corrupt("a user row is encoded otherwise than this build encodes it: rebuild table users from its log")


def _chunks(users: list[int], done: _Done, read_chunks: ChunkReader) -> Iterator[tuple[tuple[int, int], bytes | None]]:
    """Chunks that change: of rows that expired, then of those that blocks have left."""
    for row in np.flatnonzero(done.expired).tolist():
        for number in held_chunks(int(done.counted[row, 0])):
            yield (users[row], number), None
    before = np.where(done.expired, 0, done.counted[:, 0])
    left = np.maximum(done.counted[:, 1] // BLOCK, 1) - np.maximum(before // BLOCK, 1)
    last = np.cumsum(left)
    rows = np.flatnonzero(left).tolist()
    open_ones = {row: opened for row in rows if (opened := open_chunk(int(before[row]))) is not None}
    held = read_chunks([(users[row], opened) for row, opened in open_ones.items()]) if open_ones else {}
    for row in rows:
        cuts = done.block_at[last[row] - left[row] : last[row] + 1].tolist()
        blocks = [done.blocks[start:end].tobytes() for start, end in pairwise(cuts)]
        chunk = held.get((users[row], open_ones[row]), b"") if row in open_ones else b""
        for number, changed in chunks_after(int(before[row]), blocks, chunk).items():
            yield (users[row], number), changed
