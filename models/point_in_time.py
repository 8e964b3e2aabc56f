"""Training rows with features as of each label's position in the log: the serving fold over a historical log.

The log is user events in log order; an event's position is its row number. A label has a user, a position and a time:
its features are those of the user's row after the events *before* that position, read at that time, whatever event
times say. An event that came later is not seen, however old it claims to be: joining by event time would leak it.

Both files stream in pieces, so memory grows with the users of the log (about a kilobyte each) and not with its rows.
Inside a piece, labels of different users do not wait for each other: all users' events up to their first label are
folded at once, those labels read, then all events up to the second, and so on; rows are the same as event by event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from domain.feature_plan import PLAN, Plan
from domain.feature_values import Column, feature_values
from domain.features import Feature
from domain.sequence import CHUNK, behaviours_in
from domain.user_kernel import NEVER
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.errors import BadInput
from schemas.records import ACTION_CODES, UserHead

__all__ = ["PIECE", "LogFold", "export_features"]

#: Events of a piece.
PIECE: Final = 20_000
_EVENTS: Final = ("event_id", "user_id", "item_id", "event_time_ms", "action", "category_id", "value")
_LABELS: Final = ("user_id", "position", "at_ms")
#: Called with (events folded, labels written).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Labels:
    """Labels of a piece, ascending by position."""

    user_id: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    at_ms: npt.NDArray[np.int64]
    table: Any


class LogFold:
    """Rows of all users, carried along a log."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self._plan = plan
        self._clock_ms = NEVER
        self._chunks: dict[tuple[int, int], bytes] = {}
        #: Encoded, by user.
        self.heads: dict[int, bytes] = {}

    def advance(self, events: EventBatch, labels: _Labels) -> dict[str, Column]:
        """Fold a piece; the features of its labels, which lie at or before its end, as of their positions."""
        clock = np.maximum.accumulate(np.maximum(events.event_time_ms, self._clock_ms)) if len(events) else None
        event_round, label_round = _rounds(events, labels)
        rounds = int(max(event_round.max(initial=0), label_round.max(initial=-1))) + 1
        parts, places = [], []
        for number in range(rounds):
            chosen = np.flatnonzero(event_round == number)
            if len(chosen) and clock is not None:
                self._fold(events.take(chosen), clock[chosen])
            read = np.flatnonzero(label_round == number)
            if len(read):
                heads = [self._decoded(user) for user in labels.user_id[read].tolist()]
                parts.append(feature_values(heads, labels.at_ms[read], self._plan))
                places.append(read)
        if clock is not None:
            self._clock_ms = int(clock[-1])
        return _in_order(parts, places, self._plan)

    def _fold(self, events: EventBatch, clock: npt.NDArray[np.int64]) -> None:
        folded = fold(self.heads, events, 1, read_chunks=self._open, clock_ms=clock, plan=self._plan)
        self.heads |= folded.heads
        for place, chunk in folded.chunks.items():
            # Sealed chunks are never read again: of each user the open one is enough.
            if chunk is None or behaviours_in(chunk) == CHUNK:
                self._chunks.pop(place, None)
            else:
                self._chunks[place] = chunk

    def _open(self, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        return {place: self._chunks[place] for place in wanted}

    def _decoded(self, user: int) -> UserHead | None:
        head = self.heads.get(user)
        return None if head is None else cast(UserHead, codec("user_head").decode(head))


def export_features(events: Path, labels: Path, out: Path, progress: Progress, plan: Plan = PLAN) -> int:
    """Write `out`/features.parquet: the labels' own columns and every declared feature; the number of rows.

    Both inputs are Parquet. Events need the fields of a user_event, labels `user_id`, `position` and `at_ms`,
    ascending by position. Raises BadInput where columns are missing, where positions descend or lie outside the log,
    and naming the label whose time lies before the log.
    """
    log, told = _opened(events, _EVENTS[:5]), _opened(labels, _LABELS)
    out.mkdir(parents=True, exist_ok=True)
    state, rows, done, begins_ms = LogFold(plan), 0, 0, NEVER
    waiting = _label_pieces(told, labels)
    held: _Labels | None = next(waiting, None)
    schema = _schema(told.schema_arrow, plan)
    with pq.ParquetWriter(out / "features.parquet", schema) as writer:
        for piece in _event_pieces(log, events):
            end = done + len(piece)
            if not done:
                begins_ms = int(piece.event_time_ms.min())
            # Labels at `end` see all of this piece; they are written with the next one, or after the last.
            taken = []
            while held is not None and held.position[0] < end:
                now = int(np.searchsorted(held.position, end, side="left"))
                taken.append(_sliced(held, 0, now))
                _require_after(begins_ms, taken[-1], rows + sum(len(each.position) for each in taken[:-1]), labels)
                held = _sliced(held, now, len(held.position)) if now < len(held.position) else next(waiting, None)
            rows += _advance(state, piece, taken, writer, schema)
            done = end
            progress(done, rows)
        nothing = EventBatch.of([], [])
        while held is not None:
            if held.position[-1] > done:
                raise BadInput(f"{labels}: position {held.position[-1]} lies behind the log's {done} events")
            _require_after(begins_ms, held, rows, labels)
            rows += _advance(state, nothing, [held], writer, schema)
            held = next(waiting, None)
        progress(done, rows)
    return rows


def _require_after(begins_ms: int, labels: _Labels, row: int, path: Path) -> None:
    """Refuse labels, the first of which is row `row` of the file, that are read before anything is known of anybody.

    `begins_ms` is the oldest time of the log's first piece: events may be late, by less than a piece.
    """
    early = np.flatnonzero(labels.at_ms < begins_ms)
    if len(early):
        raise BadInput(
            f"{path}: row {row + int(early[0])} has at_ms {labels.at_ms[early[0]]}, before the log's first event "
            f"({begins_ms}): its features would be those of nobody; give older events, or leave such labels out"
        )


def _advance(state: LogFold, piece: EventBatch, taken: list[_Labels], writer: Any, schema: Any) -> int:
    user_id, position, at_ms = (
        np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in taken)]) for name in _LABELS
    )
    labels = _Labels(user_id, position, at_ms, pa.concat_tables([part.table for part in taken]) if taken else None)
    found = state.advance(piece, labels)
    if not taken:
        return 0
    arrays = [*labels.table.columns, *(_arrow(found[each.name], each) for each in state._plan.features)]
    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return len(labels.position)


def _rounds(events: EventBatch, labels: _Labels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each event how many labels of its user come before it in the piece, and of each label how many."""
    users = np.concatenate([events.user_id, labels.user_id])
    # A label at a position stands before the event there.
    place = np.concatenate([2 * events.offset + 1, 2 * labels.position])
    is_label = np.arange(len(users)) >= len(events)
    order = np.lexsort((place, users))
    before: npt.NDArray[np.int64] = np.cumsum(is_label[order]) - is_label[order]
    first = np.ones(len(users), dtype=np.bool_)
    first[1:] = users[order][1:] != users[order][:-1]
    start = np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))
    rounds = np.empty(len(users), dtype=np.int64)
    rounds[order] = before - before[start]
    return rounds[: len(events)], rounds[len(events) :]


def _in_order(parts: list[dict[str, Column]], places: list[npt.NDArray[np.int64]], plan: Plan) -> dict[str, Column]:
    """Columns of all rounds joined in the order of the labels."""
    if not parts:
        return {}
    order = np.argsort(np.concatenate(places))
    joined = {}
    for feature in plan.features:
        columns = [part[feature.name] for part in parts]
        present = np.concatenate([column.present for column in columns])[order]
        values: Any
        if isinstance(columns[0].values, list):
            flat = [value for column in columns for value in column.values]
            values = [flat[place] for place in order.tolist()]
        else:
            values = np.concatenate([column.values for column in columns])[order]
        joined[feature.name] = Column(values, present)
    return joined


def _arrow(column: Column, feature: Feature) -> Any:
    if isinstance(column.values, list):
        return pa.array(column.items(), type=_type(feature))
    return pa.array(column.values, type=_type(feature), mask=~column.present)


def _type(feature: Feature) -> Any:
    if feature.aggregation == "top_categories":
        return pa.list_(pa.struct([("category_id", pa.int64()), ("weight", pa.float64())]))
    return pa.int64() if feature.type == "int64" else pa.float64()


def _schema(labels: Any, plan: Plan) -> Any:
    clash = {each.name for each in plan.features} & set(labels.names)
    if clash:
        raise BadInput(f"labels have columns called as features: {', '.join(sorted(clash))}; rename them")
    features = [pa.field(each.name, _type(each)) for each in plan.features]
    return pa.schema([*labels, *features], metadata={"aif.declarations": str(plan.fingerprint)})


def _opened(path: Path, columns: tuple[str, ...]) -> Any:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read as Parquet: {error}") from error
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise BadInput(f"{path} lacks columns {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}")
    return file


def _event_pieces(file: Any, path: Path) -> Iterator[EventBatch]:
    wanted = [name for name in _EVENTS if name in file.schema_arrow.names]
    offset = 0
    codes = pa.array(list(ACTION_CODES))
    for batch in file.iter_batches(batch_size=PIECE, columns=wanted):
        count = len(batch)
        action = batch["action"].cast(pa.string())
        code = pa.compute.index_in(action, value_set=codes)
        if code.null_count:
            raise BadInput(f"{path}: {action.filter(pa.compute.is_null(code))[0]} is no action")
        required = {name: _int64(batch[name], path, name) for name in _EVENTS[:4]}
        category = batch["category_id"] if "category_id" in wanted else pa.nulls(count, pa.int64())
        value = batch["value"] if "value" in wanted else pa.nulls(count, pa.float64())
        yield EventBatch(
            offset=np.arange(offset, offset + count),
            **required,
            action=code.to_numpy(zero_copy_only=False).astype(np.uint8),
            category_id=_int64(category.fill_null(0), path, "category_id"),
            has_category=category.is_valid().to_numpy(zero_copy_only=False),
            value=value.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False),
        )
        offset += count


def _label_pieces(file: Any, path: Path) -> Iterator[_Labels]:
    last = 0
    for batch in file.iter_batches(batch_size=PIECE):
        columns = {name: _int64(batch[name], path, name) for name in _LABELS}
        position = columns["position"]
        if len(position) and (position[0] < last or (position[1:] < position[:-1]).any()):
            raise BadInput(f"{path}: positions must ascend and not be negative; sort the labels by position")
        if len(position):
            last = int(position[-1])
            yield _Labels(**columns, table=pa.Table.from_batches([batch]))


def _int64(column: Any, path: Path, name: str) -> npt.NDArray[np.int64]:
    if column.null_count:
        raise BadInput(f"{path}: column {name} has empty values")
    return np.array(column.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def _sliced(labels: _Labels, start: int, end: int) -> _Labels:
    return _Labels(
        labels.user_id[start:end], labels.position[start:end], labels.at_ms[start:end],
        labels.table.slice(start, end - start),
    )  # fmt: skip
