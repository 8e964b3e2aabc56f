"""The lanes' folds against the plain oracle, through real encodings and a table of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.feature_plan import Plan
from domain.features import Feature
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import CHUNK_KEY_BYTES, WATERMARK_KEY, chunk_of, entity_id, entity_key
from streams.fold import REBUILD_START, RebuildPlace, Writes
from streams.item_updates import ItemUpdatesFold
from streams.oracle import ItemsOracle
from streams.user_events import UserEventsFold
from streams.user_oracle import UsersOracle

DEPLOYMENT = Deployment(embedding_dim=4, signature_bits=64)
TOPIC_ID = 77
NOW_MS = 1_600_000_000_000


@dataclass
class Record:
    """A source record as folds see it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Tables:
    """Tables of one partition in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[bytes, bytes]] = {table: {} for table in (*ItemUpdatesFold.tables, "users")}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """TableReader."""
        return [self.rows[table].get(key) for key in keys]

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """TableReader."""
        return [key for key in sorted(self.rows[table]) if len(key) == 8 and key > after][:limit]

    def entity_rows(
        self, table: str, after: bytes, limit: int, until: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """TableReader."""
        keys = [key for key in self.entity_keys(table, after, limit) if until is None or key <= until]
        return [(key, self.rows[table][key]) for key in keys]

    def write(self, writes: Writes) -> None:
        """What the lane's store does."""
        for table, rows in writes.rows.items():
            assert len({key for key, _ in rows}) == len(rows), "one row per key per batch"
            self.rows[table].update({key: value for key, value in rows if value is not None})
            for key, value in rows:
                if value is None:
                    self.rows[table].pop(key, None)
        held = self.rows["users"].get(WATERMARK_KEY)
        before = codec("watermark").decode(held)["max_event_time_ms"] if held else 0
        mark = dict.fromkeys(
            ("source_topic_id", "next_source_offset", "oldest_append_time_ms", "writer_epoch", "wall_time_ms"), 0
        ) | {"max_event_time_ms": max(before, writes.max_event_time_ms or 0)}
        if "users" in writes.rows:
            self.rows["users"][WATERMARK_KEY] = codec("watermark").encode(mark)


def _differences(oracle: UsersOracle, rows: dict[bytes, bytes]) -> dict[int, str]:
    """What the oracle finds wrong with encoded rows of table users, by user."""
    heads: dict[int, Any] = {}
    chunks: dict[int, dict[int, bytes]] = {}
    for key, value in rows.items():
        if len(key) == CHUNK_KEY_BYTES:
            user, number = chunk_of(key)
            chunks.setdefault(user, {})[number] = codec("user_chunk").decode(value)["behaviours"]
        else:
            heads[entity_id(key)] = codec("user_head").decode(value)
    return dict(oracle.differences(heads, chunks))


def _sweep(fold: UserEventsFold, tables: Tables, at: RebuildPlace = REBUILD_START) -> tuple[list[Writes], RebuildPlace]:
    """One sweep to its end: what it wrote, and the place where it stands then."""
    written, more = [], True
    while more:
        piece = fold.rebuild(0, tables, at, 10_000)
        if piece.writes is not None:
            tables.write(piece.writes)
            written.append(piece.writes)
        at, more = piece.at, piece.more
    return written, at


def _item_update(item: int, time_ms: int, op: str, number: int) -> bytes:
    vector = np.cos(np.arange(4) * number + item).astype("<f4")
    if number % 11 == 0:
        vector[number % 4] = np.nan if number % 2 else np.inf
    embedding = None if number % 5 == 0 else vector.tobytes()
    return codec("item_update").encode(
        {"event_id": number, "item_id": item, "event_time_ms": time_ms, "op": op, "title": f"t{number}",
         "category_id": item, "price": 1.5, "embedding": embedding}
    )  # fmt: skip


def _user_event(user: int, time_ms: int, event_id: int, action: str) -> bytes:
    return codec("user_event").encode(
        {"event_id": event_id, "user_id": user, "item_id": event_id % 9, "event_time_ms": time_ms, "action": action,
         "category_id": event_id % 5 or None, "value": 1.5 if event_id % 3 else None}
    )  # fmt: skip


times = st.one_of(
    st.integers(NOW_MS - 20, NOW_MS),
    st.integers(NOW_MS - 10**9, NOW_MS),
    st.sampled_from([NOW_MS - 86_400_000, 0, -1, NOW_MS + 10**7]),
)
item_values = st.builds(
    _item_update, st.integers(0, 4), times, st.sampled_from(["upsert", "upsert", "delete"]), st.integers(0, 99)
)
user_values = st.builds(
    _user_event, st.integers(0, 3), times, st.integers(0, 50), st.sampled_from(["click", "purchase", "impression"])
)


def _log(values: Any, decode: str, entity: str) -> Any:
    """Lists of records of one partition, garbage among them."""

    def records(drawn: list[tuple[bytes, int]]) -> list[Record]:
        log = []
        for number, (value, kind) in enumerate(drawn):
            key: bytes | None = entity_key(codec(decode).decode(value)[entity])
            if kind == 0:
                value = value[: len(value) // 2]
            elif kind == 1:
                key = None
            elif kind == 2:
                key = entity_key(10**9)
            log.append(Record(number * 2, NOW_MS, key, value))
        return log

    return st.lists(st.tuples(values, st.integers(0, 20)), max_size=60).map(records)


def _run(fold: Any, log: list[Record], cuts: list[int]) -> tuple[Tables, list[bytes]]:
    """Fold the log in batches; before each batch but the first, the one before comes again, as after a crash."""
    tables, letters = Tables(), []
    edges = sorted({0, len(log), *(cut for cut in cuts if cut < len(log))})
    previous: list[Record] = []
    for start, end in pairwise(edges):
        if previous:
            tables.write(fold.fold(0, TOPIC_ID, previous, tables))
        previous = log[start:end]
        writes = fold.fold(0, TOPIC_ID, previous, tables)
        letters += [key for key, _ in writes.dead_letters]
        tables.write(writes)
    return tables, letters


@settings(max_examples=150, deadline=None)
@given(_log(item_values, "item_update", "item_id"), st.lists(st.integers(0, 60), max_size=6))
def test_item_rows_equal_a_recompute_of_the_log(log: list[Record], cuts: list[int]) -> None:
    """However the log is cut into batches, and though batches come twice, items are the newest of the log."""
    oracle = ItemsOracle(DEPLOYMENT, TOPIC_ID)
    tables, letters = _run(ItemUpdatesFold(DEPLOYMENT), log, cuts)
    for record in log:
        oracle.apply(record, has_letter=f"item-updates-0-{record.offset}".encode() in letters)
    assert not oracle.refused_now and not oracle.acceptable_now
    rows: dict[int, Any] = {
        entity_id(key): codec("item_row").decode(value) for key, value in tables.rows["items"].items()
    }
    assert rows.keys() == oracle.newest.keys()
    assert [oracle.difference(item, row) for item, row in rows.items() if oracle.difference(item, row)] == []
    assert set(letters) == {f"item-updates-0-{offset}".encode() for offset in oracle.refused}
    assert len(letters) == len(oracle.refused)


@settings(max_examples=150, deadline=None)
@given(_log(user_values, "user_event", "user_id"), st.lists(st.integers(0, 60), max_size=6))
def test_user_rows_equal_a_recompute_of_the_log(log: list[Record], cuts: list[int]) -> None:
    """However the log is cut into batches, and though batches come twice, users are what one event at a time gives."""
    oracle = UsersOracle(DEPLOYMENT, TOPIC_ID)
    tables, letters = _run(UserEventsFold(DEPLOYMENT), log, cuts)
    for record in log:
        oracle.apply(record, has_letter=f"user-events-0-{record.offset}".encode() in letters)
    assert not oracle.refused_now and not oracle.acceptable_now
    rows = dict(tables.rows["users"])
    rows.pop(WATERMARK_KEY, None)
    assert {entity_id(key) for key in rows if len(key) == 8} == oracle.users.keys()
    assert _differences(oracle, rows) == {}
    assert letters == [f"user-events-0-{offset}".encode() for offset in sorted(oracle.refused)]


def test_the_oracle_catches_a_planted_difference() -> None:
    """One wrong byte in a row is a difference: the comparison can fail."""
    log = [Record(0, NOW_MS, entity_key(1), _user_event(1, NOW_MS - 5, 7, "click"))]
    oracle = UsersOracle(DEPLOYMENT, TOPIC_ID)
    oracle.apply(log[0])
    tables, _ = _run(UserEventsFold(DEPLOYMENT), log, [])
    row: Any = codec("user_head").decode(tables.rows["users"][entity_key(1)])
    assert oracle.difference(1, row) == ""
    row["tiles"] = row["tiles"][:2] + b"\x09" + row["tiles"][3:]
    assert "tiles" in oracle.difference(1, row)
    assert oracle.difference(1, None) == "missing"


def test_an_older_update_in_a_recreated_topic_loses_by_time_and_a_tie_wins() -> None:
    """Offsets of another topic do not compare: only event time does, and the re-created topic wins ties."""
    fold = ItemUpdatesFold(DEPLOYMENT)
    tables = Tables()
    tables.write(
        fold.fold(0, TOPIC_ID, [Record(90, NOW_MS, entity_key(1), _item_update(1, 1000, "upsert", 1))], tables)
    )
    assert not fold.fold(0, 78, [Record(1, NOW_MS, entity_key(1), _item_update(1, 999, "upsert", 2))], tables).rows[
        "items"
    ]
    assert fold.fold(0, 78, [Record(2, NOW_MS, entity_key(1), _item_update(1, 1000, "upsert", 3))], tables).rows[
        "items"
    ]


OTHER_PLAN = Plan.of([Feature("total", "sum", ("click", "purchase"), "x", "", 3_600_000)])


def _busy(users: int, length: int) -> list[Record]:
    """Users of very different activity, a second apart."""
    random = np.random.default_rng(length)
    who = np.minimum(random.geometric(0.4, length) - 1, users - 1).tolist()
    return [
        Record(n, NOW_MS, entity_key(user), _user_event(user, NOW_MS - (length - n) * 1000, 10**6 + n, "click"))
        for n, user in enumerate(who)
    ]


def _rows(tables: Tables) -> dict[bytes, bytes]:
    return {key: value for key, value in tables.rows["users"].items() if key != WATERMARK_KEY}


def test_chunks_equal_the_log_though_batches_come_twice() -> None:
    """Hundreds of behaviours of one user, in batches that are each written again before the next, fill chunks once."""
    log = _busy(4, 2_000)
    oracle = UsersOracle(DEPLOYMENT, TOPIC_ID)
    for record in log:
        oracle.apply(record)
    tables, _ = _run(UserEventsFold(DEPLOYMENT), log, list(range(0, 2_000, 130)))
    rows = _rows(tables)
    assert _differences(oracle, rows) == {}
    chunk = next(key for key in rows if len(key) == 12)
    damaged = codec("user_chunk").encode({"fingerprint": 1, "behaviours": bytes(5)})
    assert "chunk" in _differences(oracle, {**rows, chunk: damaged})[entity_id(chunk[:8])]
    assert "chunk" in _differences(oracle, {key: rows[key] for key in rows if key != chunk})[entity_id(chunk[:8])]


def test_the_sweep_migrates_every_row_once() -> None:
    """A worker with other declarations ends with the rows that they would have made, without waiting for events."""
    log = _busy(700, 3_000) + [
        Record(3_000 + user, NOW_MS, entity_key(user), _user_event(user, NOW_MS - 5, user, "purchase"))
        for user in range(1_200)
    ]
    tables, _ = _run(UserEventsFold(DEPLOYMENT), log, [])
    fold = UserEventsFold(DEPLOYMENT, plan=OTHER_PLAN)
    written, at = _sweep(fold, tables)
    expected, _ = _run(UserEventsFold(DEPLOYMENT, plan=OTHER_PLAN), log, [])
    assert _rows(tables) == _rows(expected)
    assert [len(writes.rows["users"]) for writes in written] == [500, 500, 200]
    piece = fold.rebuild(0, tables, at, 10_000)
    assert (piece.writes, piece.at, piece.more) == (None, at, False), "the next sweep is due in a day"
    assert _sweep(fold, tables) == ([], at), "another owner looks at every row and changes none"


def test_rows_of_other_declarations_are_migrated_when_an_event_comes_first() -> None:
    """An event of a user whom the sweep has not reached folds into the migrated row."""
    log = _busy(4, 1_500)
    tables, _ = _run(UserEventsFold(DEPLOYMENT), log[:1_000], [])
    fold = UserEventsFold(DEPLOYMENT, plan=OTHER_PLAN)
    for start in range(1_000, 1_500, 50):
        tables.write(fold.fold(0, TOPIC_ID, log[start : start + 50], tables))
    oracle = UsersOracle(DEPLOYMENT, TOPIC_ID, plan=OTHER_PLAN)
    for record in log:
        oracle.apply(record)
    touched = {entity_key(user) for user in oracle.users}
    assert {key for key in _rows(tables) if len(key) == 8} == touched
    assert _differences(oracle, _rows(tables)) == {}


def test_idle_users_are_swept_and_no_one_can_tell() -> None:
    """With or without a sweep before they return, users idle for too long begin anew; their chunks go with them."""
    idle_ms, day_ms = 30 * 86_400_000, 86_400_000
    start_ms = NOW_MS - 100 * day_ms
    first = [Record(n, NOW_MS, entity_key(n % 2), _user_event(n % 2, start_ms + n, n, "click")) for n in range(400)]
    later = [Record(400, NOW_MS, entity_key(5), _user_event(5, start_ms + 40 * day_ms, 1, "click"))]
    back = [
        Record(401 + n, NOW_MS, entity_key(0), _user_event(0, start_ms + (20 + n) * day_ms, 390 + n, "click"))
        for n in range(25)
    ]
    oracle = UsersOracle(DEPLOYMENT, TOPIC_ID, idle_ms=idle_ms)
    swept, kept = (UserEventsFold(DEPLOYMENT, idle_ms=idle_ms) for _ in range(2))
    tables, others = Tables(), Tables()
    for records in (first, later, back):
        for record in records:
            oracle.apply(record)
        tables.write(swept.fold(0, TOPIC_ID, records, tables))
        others.write(kept.fold(0, TOPIC_ID, records, others))
        if records is later:
            assert any(len(key) == 12 for key in _rows(tables))
            written, at = _sweep(swept, tables)
            assert [writes.counts["swept"] for writes in written] == [2]
            assert swept.rebuild(0, tables, at, 10_000).more is False
            assert [entity_id(key) for key in _rows(tables)] == [5]
        assert _differences(oracle, _rows(tables)) == {}
        assert _differences(oracle, _rows(others)) == {}
    assert _rows(tables)[entity_key(0)] == _rows(others)[entity_key(0)]
