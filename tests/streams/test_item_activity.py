"""The activity lane behind the user lane, in memory: exactly once whatever is read again, and cut how it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.activity_row import NO_SNAPSHOT
from domain.partitioner import partition_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key, source_key
from streams.activity_oracle import ActivityOracle
from streams.fold import REBUILD_START, Piece, Writes
from streams.fresh_items import FreshItems, TableActivity
from streams.item_activity import ItemActivityFold
from streams.user_events import UserEventsFold
from streams.user_oracle import UsersOracle

NOW_MS = 1_600_000_000_000
USERS_ID, ACTIVITY_ID = 11, 12
PARTITIONS = 2


@dataclass
class Record:
    """A source record."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = NOW_MS


class Tables:
    """The tables of one partition in memory."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """TableReader."""
        return [self.rows.get(key) for key in keys]

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """TableReader."""
        return []

    def entity_rows(
        self, table: str, after: bytes, limit: int, until: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """TableReader."""
        keys = [key for key in self.entity_keys(table, after, limit) if until is None or key <= until]
        return [(key, self.rows[table][key]) for key in keys]

    def write(self, writes: Writes) -> None:
        """What the store does."""
        for key, value in (row for rows in writes.rows.values() for row in rows):
            assert value is not None
            self.rows[key] = value


class World:
    """A user lane of one partition before an activity lane of `PARTITIONS`."""

    def __init__(self, fresh: FreshItems | None = None) -> None:
        self.deployment = Deployment(partitions=PARTITIONS)
        self.users = UserEventsFold(self.deployment), Tables()
        self.activity = ItemActivityFold(self.deployment, fresh), [Tables() for _ in range(PARTITIONS)]
        self.logs: list[list[Record]] = [[] for _ in range(PARTITIONS)]
        self.counts: dict[str, int] = {}

    def act(self, records: list[Record], partition: int = 0) -> None:
        """A batch of the user lane."""
        fold, tables = self.users
        writes = fold.fold(partition, USERS_ID, records, tables)
        tables.write(writes)
        for topic, target, key, value in writes.outgoing:
            assert topic == "item-activity"
            self.logs[target].append(Record(len(self.logs[target]), key, value))

    def follow(self, target: int, records: list[Record]) -> Writes:
        """A batch of the activity lane."""
        fold, tables = self.activity
        writes = fold.fold(target, ACTIVITY_ID, records, tables[target])
        tables[target].write(writes)
        for name, count in writes.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        return writes


def _events(drawn: list[tuple[int, int, int]]) -> list[Record]:
    """User, item and time step of each event; every seventh is a duplicate of the one before."""
    records = []
    for offset, (user, item, step) in enumerate(drawn):
        event = offset - (offset % 7 == 6)
        record = {"event_id": event, "user_id": user, "item_id": item, "event_time_ms": NOW_MS - step * 600_000,
                  "action": "click"}  # fmt: skip
        records.append(Record(offset, entity_key(user), codec("user_event").encode(record)))
    return records


def _batches(records: list[Record], cuts: list[int]) -> list[list[Record]]:
    edges = sorted({0, *(min(cut, len(records)) for cut in cuts), len(records)})
    return [records[start:end] for start, end in zip(edges, edges[1:], strict=False)]  # noqa: RUF007


_DRAWN = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 1_500)), max_size=40)
_CUTS = st.lists(st.integers(0, 40), max_size=5)


@given(_DRAWN, _CUTS, _CUTS, _CUTS)
@settings(deadline=None, max_examples=60)
def test_what_users_did_counts_once(
    drawn: list[tuple[int, int, int]], cuts: list[int], again: list[int], behind: list[int]
) -> None:
    """Tables equal the oracle; table users made anew in other batches sends all again, and no row changes."""
    world, records = World(), _events(drawn)
    users = UsersOracle(world.deployment, USERS_ID)
    for record in records:
        users.apply(record)
    for batch in _batches(records, cuts):
        world.act(batch)
    first = [len(log) for log in world.logs]
    world.users = UserEventsFold(world.deployment), Tables()
    for batch in _batches(records, again):
        world.act(batch)
    for target, log in enumerate(world.logs):
        oracle = ActivityOracle(world.deployment, ACTIVITY_ID)
        for batch in _batches(log[: first[target]], behind):
            world.follow(target, batch)
        before = dict(world.activity[1][target].rows)
        for batch in _batches(log[first[target] :], behind):
            world.follow(target, batch)
        rows = world.activity[1][target].rows
        assert {key: rows[key] for key in before if len(key) == 8} == {k: v for k, v in before.items() if len(k) == 8}
        for record in log:
            oracle.apply(record)
        assert {entity_key(item) for item in oracle.items} == {key for key in rows if len(key) == 8}
        decode: Any = codec("item_activity_row").decode
        assert [
            what for item in oracle.items if (what := oracle.difference(item, decode(rows[entity_key(item)])))
        ] == []
        assert all(partition_of(item, PARTITIONS) == target for item in oracle.items)
        assert (source_key(USERS_ID, 0) in rows) == bool(log)
    assert world.counts.get("events", 0) == len(users.accepted) // 4
    assert world.counts.get("repeated", 0) == len(users.accepted) // 4


def test_a_bad_record_is_a_dead_letter_and_the_rest_counts() -> None:
    """What cannot be read, or names another source than its key, is refused; the batch goes on."""
    world = World()
    world.act(_events([(1, 2, 0), (2, 2, 0)]))
    [target] = [number for number, log in enumerate(world.logs) if log]
    [good] = world.logs[target]
    writes = world.follow(target, [Record(0, b"", b"junk"), Record(1, entity_key(9), good.value), good])
    reasons = [codec("dead_letter").decode(value)["reason"] for _, value in writes.dead_letters]
    assert reasons == ["not_single_object", "key_mismatch"]
    assert writes.counts == {"events": 2, "repeated": 0, "late": 0, "snapshots": 1}
    assert writes.max_event_time_ms == NOW_MS
    assert world.follow(target, [Record(5, b"", b"junk")]).rows == {}
    assert world.activity[0].rebuild(target, world.activity[1][target], REBUILD_START, 9) == Piece(
        None, REBUILD_START, False
    )


def test_items_are_announced_when_their_snapshot_moves() -> None:
    """The first event announces its item, further ones within the interval do not, the one at its end does again."""
    fresh, item = FreshItems(), entity_key(2)
    world = World(fresh)
    target = partition_of(2, PARTITIONS)
    announced = []
    for offset, minute in enumerate((0, 5, 9, 10)):
        record = {"event_id": offset, "user_id": 1, "item_id": 2, "event_time_ms": NOW_MS + minute * 60_000,
                  "action": "click"}  # fmt: skip
        world.act([Record(offset, entity_key(1), codec("user_event").encode(record), NOW_MS + 10**7)])
        world.logs[target][-1].timestamp = NOW_MS + 10**7
        world.follow(target, world.logs[target][-1:])
        announced.append(dict(fresh.some(target, 9)))
        fresh.seen(target, announced[-1])
    assert announced == [{item: NOW_MS}, {}, {}, {item: NOW_MS + 600_000}]


def test_an_item_announced_again_is_not_taken_for_seen() -> None:
    """Looking after an older snapshot leaves the announcement of a newer one; partitions are apart."""
    fresh = FreshItems()
    fresh.announce(0, {b"a": 1, b"b": 1})
    fresh.announce(0, {b"a": 2})
    assert fresh.count == 2
    fresh.seen(0, {b"a": 1, b"b": 1, b"c": 1})
    fresh.seen(1, {b"a": 2})
    assert (fresh.some(0, 9), fresh.some(1, 9), fresh.some(0, 0)) == ({b"a": 2}, {}, {})


def test_a_table_that_is_not_ready_has_no_answer() -> None:
    """Not restored or closed: None. Never used: no snapshots, without a look at the store. Else what the rows say."""
    world = World()
    world.act(_events([(1, 2, 0)]))
    target = partition_of(2, PARTITIONS)
    world.follow(target, world.logs[target])
    rows, state, looked = world.activity[1][target].rows, {"restored": False, "used": False, "open": True}, []

    def peek(partition: int, keys: Sequence[bytes]) -> Any:
        looked.append(partition)
        return [rows.get(key) for key in keys] if state["open"] else None

    table: Any = SimpleNamespace(peek_many=peek)
    activity = TableActivity(table, lambda partition: state["restored"], lambda partition: state["used"])
    keys = [entity_key(2), entity_key(3)]
    assert activity(target, keys) is None
    state["restored"] = True
    unused = activity(target, keys)
    assert unused is not None and unused.made_ms.tolist() == [NO_SNAPSHOT] * 2 and not looked
    state["used"] = True
    found = activity(target, keys)
    assert found is not None and found.made_ms.tolist() == [NOW_MS, NO_SNAPSHOT] and found.features[0].any()
    state["open"] = False
    assert activity(target, keys) is None
