"""Verification: tables, vectors, stores and dead letters against the log, on systems in every state."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiokafka import AIOKafkaProducer, TopicPartition
from click.testing import CliRunner
from fleet import create_topics
from kafka import KafkaProducer

from cli.main import main
from cli.verify import report_lines
from domain.activity_events import ACTIVITY_DTYPE
from domain.activity_row import ACTIVITY_FEATURES, Snapshots
from models.aif import AIF
from models.config import ModelConfig
from models.export import export
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.ids import WATERMARK_KEY, chunk_key, entity_key
from schemas.records import Watermark
from schemas.topics import TABLES
from streams.activity_oracle import ActivityOracle
from streams.changelog import ChangelogWriter
from streams.changelog_rows import RowsAtCut, RowsAtOffset
from streams.checkpoint import Checkpoint
from streams.datadir import claim
from streams.fold import Fold
from streams.item_activity import ItemActivityFold
from streams.item_model import Feed, ItemModel
from streams.item_updates import ItemUpdatesFold
from streams.log_reader import LogReader
from streams.sources import source_topic_ids
from streams.store import Store
from streams.user_events import UserEventsFold
from streams.verdicts import Verdicts
from streams.verification import Report, verify
from streams.verification_report import Coverage

broker = pytest.mark.broker
NOW_MS = 1_600_000_000_000


@dataclass
class Record:
    """A Kafka record as folds and verification see it."""

    offset: int
    key: bytes
    value: bytes | None
    timestamp: int = NOW_MS


def _mark(next_offset: int, topic_id: int = 1) -> bytes:
    return codec("watermark").encode(
        Watermark(
            source_topic_id=topic_id, next_source_offset=next_offset, max_event_time_ms=0, oldest_append_time_ms=0,
            writer_epoch=0, wall_time_ms=0,
        )
    )  # fmt: skip


# -- the pure parts ----------------------------------------------------------------------------------------------------


def _at(cut: int | None, *records: tuple[bytes, bytes | None]) -> RowsAtCut:
    rows = RowsAtCut(cut)
    for offset, (key, value) in enumerate(records):
        if not rows.take(Record(offset, key, value)):
            break
    return rows


def test_rows_are_those_of_a_watermark() -> None:
    """Rows behind the last watermark are not seen, deletions are; without a cut the newest watermark counts."""
    rows = _at(
        None, (b"a", b"1"), (b"b", b"1"), (WATERMARK_KEY, _mark(3)), (b"a", b"2"), (b"b", None),
        (WATERMARK_KEY, _mark(5)), (b"a", b"3"),
    )  # fmt: skip
    assert (rows.rows, rows.next_offset, rows.at_cut, rows.beyond) == ({b"a": b"2"}, 6, True, None)


def test_watermarks_of_a_topic_made_again_do_not_compare() -> None:
    """Watermarks of the deleted topic stand higher than the cut and do not end the reading, nor are they the cut."""
    rows = RowsAtCut(3, topic_id=2)
    log = [
        (b"a", b"1"),
        (WATERMARK_KEY, _mark(800)),
        (WATERMARK_KEY, _mark(3)),
        (b"a", b"2"),
        (WATERMARK_KEY, _mark(3, 2)),
    ]
    assert all(rows.take(Record(offset, key, value)) for offset, (key, value) in enumerate(log[:3]))
    assert not rows.at_cut
    assert all(rows.take(Record(offset, key, value)) for offset, (key, value) in enumerate(log[3:], 3))
    assert (rows.rows, rows.at_cut) == ({b"a": b"2"}, True)


def test_rows_stop_at_the_cut_and_say_where_it_is_missing() -> None:
    """The last watermark of the cut counts; one beyond ends the reading, and where none is of the cut that is said."""
    log = [(b"a", b"1"), (WATERMARK_KEY, _mark(3)), (b"a", b"2"), (WATERMARK_KEY, _mark(3)), (b"a", b"3")]
    rows = _at(3, *log, (WATERMARK_KEY, _mark(4)))
    assert (rows.rows, rows.at_cut, rows.beyond) == ({b"a": b"2"}, True, 4)
    rows = _at(2, *log)
    assert (rows.rows, rows.at_cut, rows.beyond) == ({}, False, 3)
    rows = _at(9, *log)
    assert (rows.at_cut, rows.beyond) == (False, None)
    assert not _at(None).at_cut


def _differences(offset: int, log: Sequence[Record], stored: dict[bytes, bytes]) -> dict[bytes, str]:
    rows = RowsAtOffset(offset)
    for record in log:
        rows.take(record)
    return dict(rows.differences(stored.items()))


def test_a_copy_is_compared_row_by_row_at_its_offset() -> None:
    """Rows of another value, missing, deleted and invented ones are found; rows behind the offset do not count."""
    log = [Record(0, b"a", b"1"), Record(1, b"b", b"1"), Record(2, b"c", b"1"), Record(3, b"c", None)]
    assert _differences(3, log, {b"a": b"1", b"b": b"1"}) == {}
    found = _differences(3, log, {b"a": b"22", b"c": b"1", b"d": b"1"})
    assert found.keys() == {b"a", b"b", b"c", b"d"}
    assert (found[b"b"], found[b"c"], found[b"d"]) == (
        "missing", "deleted in the changelog", "the changelog has no such row"
    )  # fmt: skip
    assert _differences(0, [*log[:1], Record(9, b"x", b"1")], {b"a": b"1"}) == {}


def test_what_compaction_may_have_taken_is_no_difference() -> None:
    """A row whose key was written again behind the offset proves nothing; the others are judged all the same."""
    log = [Record(1, b"b", b"1"), Record(5, b"a", b"2")]
    assert _differences(3, log, {b"a": b"1", b"b": b"1"}) == {}
    assert _differences(3, log, {b"a": b"1", b"b": b"0"}).keys() == {b"b"}


def test_reports_add_up() -> None:
    """Counts and coverage of partitions are summed, the first differences of all are kept, ten at most."""
    total, coverage = Report(), Coverage("aa", "live")
    for tag in (1, 1, 2, None):
        coverage.count(tag, 1)
    for number in range(2):
        part = Report(rows={"n2o_a": 3}, source_records=2, coverage={"n2o_a": coverage}, stores={f"w/{number}": 4})
        for item in range(7):
            part.differs(f"n2o_a-{number} {item}", "wrong")
        total.add(part)
    assert (total.rows, total.source_records, total.differences) == ({"n2o_a": 6}, 4, 14)
    assert len(total.first_differences) == 10 and total.stores == {"w/0": 4, "w/1": 4}
    assert total.coverage == {"n2o_a": Coverage("aa", "live", items=8, current=4, other_models=2, missing=2)}
    text = "\n".join(report_lines(total))
    assert "4 of 8 items have a row of model aa (live); 2 of another model, 2 without" in text
    assert "2 stores, 8 rows compared" in text and "differences: 14" in text


def test_a_letter_is_of_one_record() -> None:
    """A record is refused where the newest value of its key is a letter, and of that very record's time."""
    deployment = Deployment(prefix="p-")
    verdicts = Verdicts(None, deployment, "user-events")  # type: ignore[arg-type]
    letter = codec("dead_letter").encode(
        {"reason": "r", "detail": "", "topic": "p-user-events", "partition": 1, "offset": 5, "append_time_ms": NOW_MS,
         "key": None, "value": None}
    )  # fmt: skip
    verdicts.take(Record(0, b"p-user-events-1-5", letter))
    verdicts.take(Record(1, b"p-user-events-1-6", b"junk"))
    assert verdicts.refused(1, Record(5, b"", b""))
    assert not verdicts.refused(1, Record(5, b"", b"", NOW_MS + 1))
    assert not verdicts.refused(0, Record(5, b"", b""))
    assert not verdicts.refused(1, Record(6, b"", b""))
    verdicts.take(Record(2, b"p-user-events-1-5", None))
    assert not verdicts.refused(1, Record(5, b"", b""))


# -- against a broker --------------------------------------------------------------------------------------------------


class World:
    """One partition of both lanes, its batches written as a worker writes them, on the broker and on disk."""

    def __init__(self, deployment: Deployment, sender: AIOKafkaProducer) -> None:
        self.deployment, self._sender = deployment, sender
        self._ids = source_topic_ids(
            deployment, map(deployment.topic, ("item-updates", "user-events", "item-activity"))
        )
        self.items, self._epoch = ItemUpdatesFold(deployment, self._activity), 0
        users, activity = UserEventsFold(deployment), ItemActivityFold(deployment)
        self._folds: dict[str, Fold] = {"item-updates": self.items, "user-events": users, "item-activity": activity}
        folder = deployment.data_dir / "tables" / "w"
        self.lock = claim(folder, deployment)
        self.stores = {name: Store(folder / f"{name}-0.db") for name in TABLES}
        self._next = dict.fromkeys(self._folds, 0)
        self.fed: dict[str, Feed] = {}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """TableReader."""
        return self.stores[table].get_many(keys)

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """TableReader."""
        return self.stores[table].entity_keys(after, limit)

    def entity_rows(
        self, table: str, after: bytes, limit: int, until: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """TableReader."""
        return self.stores[table].entity_rows(after, limit, until)

    def _activity(self, partition: int, keys: Sequence[bytes]) -> Snapshots:
        """ActivityReader."""
        rows = self.get_many("item_activity", keys)
        return Snapshots.of([None if row is None else codec("item_activity_row").decode(row) for row in rows])

    async def fold(self, source: str, *sent: tuple[bytes, bytes]) -> dict[Any, list[Any]]:
        """Send records and fold them: the rows of the batch by destination, the watermark last."""
        topic, records = self.deployment.topic(source), []
        for key, value in sent:
            at = await self._sender.send_and_wait(topic, value, key, partition=0)
            records.append(Record(at.offset, key, value, at.timestamp))
        return self._folded(source, records)

    async def fold_activity(self) -> dict[Any, list[Any]]:
        """Fold what the user lane has sent on."""
        tp, source = TopicPartition(self.deployment.topic("item-activity"), 0), "item-activity"
        async with LogReader(self.deployment.bootstrap_servers) as reader:
            end = (await reader.bounds(tp)).committed
            found = [Record(r.offset, r.key, r.value, r.timestamp) async for r in reader.records(tp, 0, end)]
        return self._folded(source, [record for record in found if record.offset >= self._next[source]])

    def _folded(self, source: str, records: list[Record]) -> dict[Any, list[Any]]:
        topic = self.deployment.topic(source)
        fold = self._folds[source]
        writes = fold.fold(0, self._ids[topic], records, self)
        self._next[source] = records[-1].offset + 1
        mark = codec("watermark").decode(_mark(self._next[source])) | {"source_topic_id": self._ids[topic]}
        encoded = (WATERMARK_KEY, codec("watermark").encode(mark))
        rows = {(self.deployment.changelog(table), 0): [*writes.rows.get(table, ()), encoded] for table in fold.tables}
        if writes.dead_letters:
            rows[self.deployment.dead_letters(source), 0] = writes.dead_letters
        for topic, partition, key, value in writes.outgoing:
            rows.setdefault((self.deployment.topic(topic), partition), []).append((key, value))
        return rows

    async def commit(self, source: str, rows: dict[Any, list[Any]]) -> None:
        """One transaction, then the stores."""
        topic = self.deployment.topic(source)
        writer = ChangelogWriter(self.deployment.bootstrap_servers, self.deployment.group, TopicPartition(topic, 0))
        await writer.start()
        last = await writer.write(rows, self._next[source], lambda: None)
        await writer.stop()
        for table in self.stores:
            if (to := (self.deployment.changelog(table), 0)) in rows:
                self.stores[table].put_many(rows[to], last[to])

    async def apply(self, source: str, *sent: tuple[bytes, bytes]) -> None:
        """A whole batch."""
        await self.commit(source, await self.fold(source, *sent))

    async def go_live(self, folder: Path, version: str, slot: str) -> None:
        """Decide that a version is fed in a slot and live, and let the worker do so."""
        digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        for decision in ("accept", "build", "cover", "live"):
            self._epoch += 1
            terms = {"gate": 1.0, "auto": True, "shadow_s": 0, "min_overlap": 0.0, "retain_s": 0, "by": ""}
            what = {"epoch": self._epoch, "event_time_ms": NOW_MS, "decision": decision, "version": version}
            where = {"slot": slot, "command_offset": -1, "uri": str(folder), "manifest_sha256": digest, "reason": ""}
            value = codec("rollout_event").encode({**what, **where, **terms})
            await self._sender.send_and_wait(self.deployment.topic("rollout"), value, b"rollout")
        model = ItemModel.load(folder, version, self.deployment)
        self.fed = {**self.fed, slot: Feed.live(model, slot)}
        self.items.feed(self.fed)

    async def verify(self, deployment: Deployment | None = None, **options: Any) -> Report:
        """A verification that must end soon."""
        progress = options.pop("progress", lambda where, count: None)
        return await asyncio.wait_for(verify(deployment or self.deployment, progress, **options), 20)


def _event(user: int, event: int, time_ms: int = NOW_MS) -> tuple[bytes, bytes]:
    record = {"event_id": event, "user_id": user, "item_id": 1, "event_time_ms": time_ms, "action": "click",
              "category_id": None, "value": None}  # fmt: skip
    return entity_key(user), codec("user_event").encode(record)


def _update(item: int, event: int, op: str = "upsert") -> tuple[bytes, bytes]:
    record = {"event_id": event, "item_id": item, "event_time_ms": NOW_MS + event, "op": op, "price": 1.0 + event,
              "embedding": bytes(256)}  # fmt: skip
    return entity_key(item), codec("item_update").encode(record)


def _in_world(deployment: Deployment, story: Callable[[World], Awaitable[None]]) -> None:
    """Run a story in a new world of one partition."""

    async def run() -> None:
        async with _world(replace(deployment, partitions=1)) as world:
            await story(world)

    asyncio.run(run())


@asynccontextmanager
async def _world(deployment: Deployment) -> Any:
    create_topics(deployment)
    sender = AIOKafkaProducer(bootstrap_servers=deployment.bootstrap_servers)
    await sender.start()
    try:
        yield World(deployment, sender)
    finally:
        await sender.stop()


@broker
@pytest.mark.parametrize("ending", ["aborted", "left open"])
def test_rows_behind_the_last_watermark_do_not_hang_it(deployment: Deployment, ending: str) -> None:
    """A worker that died in the middle of a batch leaves rows that count for nothing, and verification ends."""

    async def story(world: World) -> None:
        await world.apply("item-updates", _update(1, 1), _update(2, 2))
        await world.apply("user-events", _event(1, 1))
        servers = deployment.bootstrap_servers
        dying = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=deployment.prefix)
        await dying.start()
        await dying.begin_transaction()
        for table in world.stores:
            await dying.send_and_wait(world.deployment.changelog(table), b"half", entity_key(1), partition=0)
        if ending == "aborted":
            await dying.abort_transaction()
        report = await world.verify()
        assert report.equal, report
        assert report.rows == {"items": 2, "n2o_a": 0, "n2o_b": 0, "n2o_c": 0, "users": 1}
        assert report.stores is not None and report.stores.keys() == {f"w/{table}-0.db" for table in world.stores}
        if ending != "aborted":
            await dying.abort_transaction()
        await dying.stop()

    _in_world(deployment, story)


@broker
def test_a_second_changelog_without_the_cut_differs(deployment: Deployment) -> None:
    """Where one table of a lane has a batch and the other has nothing of it, that is a difference, found at once."""

    async def story(world: World) -> None:
        rows = await world.fold("item-updates", _update(1, 1))
        vectors = world.deployment.changelog("n2o_a"), 0
        await world.commit("item-updates", {to: some for to, some in rows.items() if to != vectors})
        report = await world.verify()
        assert report.first_differences == ["n2o_a-0: is not at offset 1, as items-0"]
        ahead = await world.fold("item-updates", _update(1, 2))
        await world.commit("item-updates", {vectors: ahead[vectors]})
        assert (await world.verify()).first_differences == ["n2o_a-0: is not at offset 1, as items-0"]

    _in_world(deployment, story)


@broker
def test_a_row_taken_by_compaction_is_compared_at_a_later_cut(deployment: Deployment) -> None:
    """A row that is missing at the cut but was written again since is judged there; one never written again differs.

    So does what is no row at all.
    """

    async def story(world: World) -> None:
        rows = await world.fold("user-events", _event(1, 1), _event(2, 2))
        (to, [first, second, mark]), *_ = rows.items()
        await world.commit("user-events", {**rows, to: [second, (entity_key(1), b"no row"), (b"short", b""), mark]})
        found = (await world.verify(stores=False)).first_differences
        assert [each.split(": is no row")[0] for each in found] == [
            "users-0 key 0000000000000001", "users-0 key 73686f7274", "users-0 1: missing"
        ]  # fmt: skip
        await world.commit("user-events", {to: [(entity_key(1), None), (b"short", None), mark]})
        world.stores["users"].put_many([first], world.stores["users"].changelog_offset)
        assert (await world.verify(stores=False)).first_differences == ["users-0 1: missing"]
        later = await world.fold("user-events", _event(1, 3))
        producer = KafkaProducer(bootstrap_servers=deployment.bootstrap_servers)

        def write_later(where: str, count: int) -> None:
            for topic, _ in later if where == "user-events-0" else ():
                while later[topic, 0]:
                    key, value = later[topic, 0].pop(0)
                    producer.send(topic, value, key, partition=0).get(10)

        report = await world.verify(progress=write_later, stores=False)
        producer.close()
        assert (report.equal, report.source_records, report.rows["users"]) == (True, 3, 2), report

    _in_world(deployment, story)


@broker
def test_chunks_are_compared_with_their_user(deployment: Deployment) -> None:
    """A chunk that is lost, damaged or nobody's differs, in the table and on disk; chunks are no users of their own."""

    async def story(world: World) -> None:
        await world.apply("user-events", *(_event(1, number) for number in range(100)), _event(2, 1))
        report = await world.verify()
        assert (report.equal, report.rows["users"]) == (True, 2), report
        users, to = world.stores["users"], (world.deployment.changelog("users"), 0)
        first, mark = chunk_key(1, 0), (WATERMARK_KEY, users.get_many([WATERMARK_KEY])[0])
        right = users.get_many([first])[0]
        assert right is not None
        for key, value, found in (
            (first, None, "users-0 1: chunk 0 is "),
            (first, b"no chunk", f"users-0 key {first.hex()}: is no row of the table"),
            (chunk_key(3, 0), right, "users-0 3: the log has no such user"),
        ):
            await world.commit("user-events", {to: [(first, right), (chunk_key(3, 0), None), mark]})
            await world.commit("user-events", {to: [(key, value), mark]})
            differences = (await world.verify(stores=False)).first_differences
            assert differences and differences[0].startswith(found), differences
        await world.commit("user-events", {to: [(first, right), (chunk_key(3, 0), None), mark]})
        assert (await world.verify()).equal
        users.put_many([(first, b"wrong")], users.changelog_offset)
        assert (await world.verify()).first_differences[0].startswith("users-0 on disk (w) 1 chunk 0: ")

    _in_world(deployment, story)


@broker
@pytest.mark.parametrize("wrong", [b"another value", None, b"new"])
def test_a_wrong_row_on_disk_is_found(deployment: Deployment, wrong: bytes | None) -> None:
    """A value changed, a row lost or invented in a store is a difference of that store, and only where it is looked."""

    async def story(world: World) -> None:
        await world.apply("user-events", _event(1, 1), _event(2, 2))
        assert (await world.verify()).equal
        users = world.stores["users"]
        users.put_many([(entity_key(7 if wrong == b"new" else 2), wrong)], users.changelog_offset)
        report = await world.verify()
        assert report.differences == 1
        assert report.first_differences[0].startswith(f"users-0 on disk (w) {7 if wrong == b'new' else 2}: ")
        assert (await world.verify(stores=False)).equal
        users.put_many([], 99)
        assert "holds offset 99 of a changelog that ends at" in (await world.verify()).first_differences[0]

    _in_world(deployment, story)


@broker
def test_a_store_that_is_behind_is_right_too(deployment: Deployment) -> None:
    """A copy that a stopped worker left is compared at its own offset, not with what came later."""

    async def story(world: World) -> None:
        await world.apply("user-events", _event(1, 1), _event(2, 2))
        users = world.stores["users"]
        before = users.get_many([entity_key(1), entity_key(2), WATERMARK_KEY]), users.changelog_offset
        await world.apply("user-events", _event(2, 3), _event(3, 4))
        users.close()
        behind = Store(users.folder.with_name("users-0.db.new"))
        behind.put_many(list(zip([entity_key(1), entity_key(2), WATERMARK_KEY], before[0], strict=True)), before[1])
        behind.close()
        users.folder.rename(users.folder.with_name("users-0.ahead"))
        behind.folder.rename(users.folder)
        report = await world.verify()
        assert report.equal, report
        assert report.stores is not None and report.stores["w/users-0.db"] == 3

    _in_world(deployment, story)


@broker
def test_a_letter_outlives_the_setting_that_caused_it(deployment: Deployment) -> None:
    """A record refused as far-future counts as refused with a tolerance that would accept it, and is reported apart."""

    async def story(world: World) -> None:
        await world.apply("user-events", _event(1, 1), _event(1, 2, 4_000_000_000_000), (entity_key(1), b"junk"))
        report = await world.verify()
        assert (report.equal, report.refused_records, report.refused_then_acceptable_now) == (True, 2, 0)
        lenient = replace(world.deployment, future_tolerance_ms=10**13)
        report = await world.verify(lenient)
        assert (report.equal, report.refused_records, report.refused_then_acceptable_now) == (True, 2, 1)
        rows = await world.fold("user-events", (entity_key(1), b"more junk"))
        letters = world.deployment.dead_letters("user-events"), 0
        await world.commit("user-events", {to: some for to, some in rows.items() if to != letters})
        report = await world.verify()
        assert (report.equal, report.missing_dead_letters) == (False, 1)

    _in_world(deployment, story)


@broker
def test_what_looser_settings_accepted_is_reported_apart(deployment: Deployment) -> None:
    """Records that a wider tolerance let in are no missing letters: the table holds them, and only their count shows.

    Where the table does not hold such a record, a letter is missing after all: that differs.
    """

    async def story(world: World) -> None:
        strict = replace(world.deployment, future_tolerance_ms=-(10**13))
        await world.apply("user-events", _event(1, 1), _event(2, 2))
        await world.apply("item-updates", _update(1, 1))
        report = await world.verify(strict)
        assert (report.equal, report.missing_dead_letters, report.accepted_then_refused_now) == (True, 0, 3), (
            report.first_differences
        )
        assert "accepted under other settings: 3 records" in "\n".join(report_lines(report))
        rows = await world.fold("user-events", _event(1, 3))
        to = world.deployment.changelog("users"), 0
        await world.commit("user-events", {to: rows[to][-1:]})  # the watermark alone: refused, and no letter written
        report = await world.verify(strict, stores=False)
        assert [each.split(":")[0] for each in report.first_differences] == [
            "users-0 1",
            "item-activity-0 of user-events-0",
        ]
        assert not report.equal

    _in_world(deployment, story)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Folder and version of two untrained models."""
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        exported = export(AIF(ModelConfig.of(Deployment())), {"seed": seed}, tmp_path_factory.mktemp("artifacts"))
        made.append((Path(exported.folder), exported.manifest.version))
    return made


@broker
def test_coverage_counts_and_stale_vectors_differ(deployment: Deployment, models: list[tuple[Path, str]]) -> None:
    """Items without a vector of a fed version are counted, slot by slot; a vector of an older update differs."""

    async def story(world: World) -> None:
        await world.apply("item-updates", _update(1, 1), _update(2, 2), _update(9, 3, "delete"))
        assert (await world.verify()).coverage == {}
        for (folder, version), slot, update in zip(models, ("n2o_a", "n2o_b"), ((3, 4), (4, 5)), strict=True):
            await world.go_live(folder, version, slot)
            await world.apply("item-updates", _update(*update))
        report = await world.verify()
        assert report.equal, report
        assert report.coverage == {
            "n2o_a": Coverage(models[0][1], "retained", items=4, current=2, missing=2),
            "n2o_b": Coverage(models[1][1], "live", items=4, current=1, missing=3),
        }
        rows = await world.fold("item-updates", _update(4, 6))
        vectors = world.deployment.changelog("n2o_b"), 0
        await world.commit("item-updates", {**rows, vectors: rows[vectors][-1:]})
        report = await world.verify()
        assert report.differences == 1 and report.first_differences[0].startswith("n2o_b-0 4: "), report

    _in_world(deployment, story)


@broker
def test_reading_never_waits_for_ever(deployment: Deployment) -> None:
    """A log that gives nothing and a transaction that stays open are Unavailable, with the partition named."""
    deployment = replace(deployment, partitions=1)
    create_topics(deployment)
    topic = deployment.topic("user-events")
    tp = TopicPartition(topic, 0)

    async def run() -> None:
        servers = deployment.bootstrap_servers
        producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=deployment.prefix)
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"x", partition=0)
        async with LogReader(servers, patience_s=0.5, settled_within_s=0.5) as reader:
            bounds = await reader.bounds(tp)
            assert (bounds.committed, bounds.written) == (0, 1)
            with pytest.raises(Unavailable, match=f"{topic}-0: a transaction has been open"):
                await reader.settled(tp, bounds.written)
            with pytest.raises(Unavailable, match=f"{topic}-0 gives nothing from offset 0"):
                [record async for record in reader.records(tp, 0, 1)]
        await producer.abort_transaction()
        await producer.stop()

    asyncio.run(run())


@broker
def test_what_cannot_be_compared_is_no_difference(deployment: Deployment) -> None:
    """A deployment without topics is BadInput, a broker that is gone Unavailable: never exit status 1."""
    with pytest.raises(BadInput, match="aif topics create"):
        asyncio.run(verify(deployment, lambda where, count: None))
    with pytest.raises(Unavailable):
        asyncio.run(verify(replace(deployment, bootstrap_servers="127.0.0.1:9"), lambda where, count: None))


@broker
def test_the_command_says_what_it_found(deployment: Deployment) -> None:
    """Text and JSON have coverage and stores; the exit status is 0 where all is equal, 1 where something differs."""
    deployment = replace(deployment, partitions=1)

    def command(*options: str) -> tuple[int, str]:
        arguments = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix]
        arguments += ["--partitions", "1", "--data-dir", str(deployment.data_dir), *options]
        done = CliRunner().invoke(main, ["verify", *arguments])
        return done.exit_code, done.stdout

    async def story(world: World) -> None:
        await world.apply("item-updates", _update(1, 1))
        status, text = await asyncio.to_thread(command)
        assert status == 0 and "no model version has a slot" in text and "6 stores" in text
        items = world.stores["items"]
        items.put_many([(entity_key(1), b"wrong")], items.changelog_offset)
        status, text = await asyncio.to_thread(command, "--json")
        found = json.loads(text)
        assert (status, found["equal"], found["coverage"]) == (1, False, {})
        assert (await asyncio.to_thread(command, "--no-stores"))[0] == 0

    _in_world(deployment, story)


# -- activity ----------------------------------------------------------------------------------------------------------


def _activity_row(world: World) -> dict[str, Any]:
    [value] = world.stores["item_activity"].get_many([entity_key(1)])
    return codec("item_activity_row").decode(value)


@broker
def test_activity_is_compared_with_its_topic(deployment: Deployment) -> None:
    """Rows of item_activity and their sources are right or differ, and a checkpoint carries them."""

    async def story(world: World) -> None:
        await world.apply("user-events", _event(1, 1), _event(2, 2, NOW_MS + 5), _event(1, 1))
        checkpoint = Checkpoint()
        await world.commit("item-activity", await world.fold_activity())
        report = await world.verify(checkpoint=checkpoint)
        assert (report.equal, report.rows["item_activity"]) == (True, 1), report
        restored = Checkpoint()
        checkpoint.save(deployment.data_dir / "checkpoint")
        restored = Checkpoint.load(deployment.data_dir / "checkpoint")
        oracle = ActivityOracle(world.deployment, 1, {1: NOW_MS})
        restored.partitions["item-activity-0"].restore(oracle)
        assert oracle.difference(1, _activity_row(world)) == ""  # type: ignore[arg-type]
        assert oracle.snapshot(1, NOW_MS) is not None and oracle.forgotten(1, NOW_MS - 1)
        rows = await world.fold("user-events", _event(3, 3, NOW_MS + 9))
        await world.commit("user-events", rows)
        rows = await world.fold_activity()
        (to, [row, source, mark]), *_ = rows.items()
        wrong = {**codec("item_activity_row").decode(row[1]), "newest_event_time_ms": 5}
        behind = codec("activity_source").encode({"next_offset": 1})
        spoiled = [(row[0], codec("item_activity_row").encode(wrong)), (source[0], behind), mark]
        await world.commit("item-activity", {to: spoiled})
        found = sorted((await world.verify(stores=False)).first_differences)
        assert found[0] == f"item_activity-0 1: newest_event_time_ms is 5, expected {NOW_MS + 9}"
        assert found[1].endswith("is at offset 1, expected 4") and len(found) == 2

    _in_world(deployment, story)


@broker
def test_what_the_user_lane_sends_is_what_it_accepts(deployment: Deployment) -> None:
    """Events that it accepted and did not send, and those that it sent and did not accept, differ; repeats do not."""

    async def story(world: World) -> None:
        rows = await world.fold("user-events", _event(1, 1), _event(1, 1), _event(2, 2))
        sent = world.deployment.topic("item-activity"), 0
        [(key, value)] = rows[sent]
        await world.commit("user-events", {to: some for to, some in rows.items() if to != sent})
        found = (await world.verify()).first_differences
        assert [each.split(" (")[0] for each in found] == [
            f"item-activity-0 of user-events-0: event at offset {offset}" for offset in (0, 2)
        ]  # fmt: skip
        await world.commit("user-events", {sent: [(key, value), (key, value)]})
        assert (await world.verify()).equal
        record = codec("item_activity").decode(value)
        more = np.frombuffer(record["events"], ACTIVITY_DTYPE)[1:].copy()
        rows = await world.fold("user-events", _event(3, 3), _event(3, 3))
        more["delta"] = 1
        [(key, value)] = rows[sent]
        record = codec("item_activity").decode(value)
        record = {**record, "events": record["events"] + more.tobytes()}
        await world.commit("user-events", {**rows, sent: [(key, codec("item_activity").encode(record))]})
        [found] = (await world.verify()).first_differences
        assert "event at offset 4 (item 1" in found and "was not accepted" in found

    _in_world(deployment, story)


@broker
def test_a_vector_is_judged_by_the_snapshot_that_it_names(
    deployment: Deployment, models: list[tuple[Path, str]]
) -> None:
    """A record of an older snapshot awaits the newer one; a snapshot that never was, and another vector, differ."""

    async def story(world: World) -> None:
        folder, version = models[0]
        await world.go_live(folder, version, "n2o_a")
        await world.apply("user-events", _event(1, 1))
        await world.commit("item-activity", await world.fold_activity())
        await world.apply("item-updates", _update(1, 1))
        report = await world.verify()
        assert (report.equal, report.coverage["n2o_a"].awaiting_activity) == (True, 0), report
        await world.apply("user-events", _event(1, 2, NOW_MS + 600_000))
        await world.commit("item-activity", await world.fold_activity())
        report = await world.verify()
        assert (report.equal, report.coverage["n2o_a"].awaiting_activity) == (True, 1), report
        assert "1 rows await a newer snapshot" in "\n".join(report_lines(report))
        invented = Snapshots(np.array([NOW_MS + 1]), np.zeros((1, ACTIVITY_FEATURES), np.float32))
        world.items.activity = lambda partition, keys: invented
        await world.apply("item-updates", _update(1, 2))
        assert (await world.verify()).first_differences == [
            f"n2o_a-0 1: its activity's snapshot of {NOW_MS + 1} ms never was"
        ]
        wrong = Snapshots(np.array([NOW_MS]), np.full((1, ACTIVITY_FEATURES), 9, np.float32))
        world.items.activity = lambda partition, keys: wrong
        await world.apply("item-updates", _update(1, 3))
        [found] = (await world.verify()).first_differences
        assert "is not what model" in found

    _in_world(deployment, story)
