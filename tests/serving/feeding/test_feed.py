from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from rocksdict import Options, Rdict

from domain.partitioner import partition_of
from domain.rollout import Rollout
from producers.connection import admin_client
from producers.topics import create_topics
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from schemas.ids import WATERMARK_KEY, entity_id
from serving.feeding.bootstrap import load_tables
from serving.feeding.feed import Feed
from serving.feeding.local_tables import CHANGELOG_OFFSET_KEY, find_tables
from serving.feeding.state_upkeep import StateUpkeep
from serving.rollout.following import Follower
from serving.tables.progress import Progress
from tests.serving.conftest import (
    NOW_MS,
    World,
    item_rows,
    n2o_records,
    n2o_rows,
    user_rows,
    watermark_row,
)

ITEMS = range(200, 260)


def until(holds: Callable[[], object], within_s: float = 15.0) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


class Feeding:
    """Feeder and follower of the world, each in a thread, as of processes that start now."""

    def __init__(self, world: World, deployment: Deployment, tables: Path | None = None) -> None:
        world.progress.caught_up = world.progress.connected = False
        upkeep = StateUpkeep(world.folder, world.folder.control.state, world.writer, world.progress)
        self.feed = Feed(deployment, world.writer, upkeep, world.progress, world.freshness, tables)
        self.failed: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._follower = Follower(deployment, world.folder, world.store, world.versions, Progress())

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._follower.start()

    def stop(self) -> None:
        """End both."""
        self.feed.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._follower.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self.feed.run())
        except Corrupt as error:
            self.failed = error


@pytest.fixture
def make_feed() -> Iterator[Callable[..., Feeding]]:
    """Makes feedings, and ends those that a test left running."""
    made: list[Feeding] = []

    def make(*arguments) -> Feeding:
        made.append(Feeding(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.feed.stop()


def by_partition(rows, partitions: int) -> dict[int, tuple[list[bytes], list[bytes]]]:
    """Rows as the workers partition them, a watermark last in each."""
    split = {partition: ([], []) for partition in range(partitions)}
    for key, value in zip(*rows, strict=True):
        keys, values = split[partition_of(entity_id(key), partitions)]
        keys.append(key)
        values.append(value)
    for keys, values in split.values():
        keys.append(WATERMARK_KEY)
        values.append(watermark_row(oldest_append_time_ms=int(time.time() * 1000))[1][0])
    return split


def write_tables(
    folder: Path, tables: dict[str, tuple[list[bytes], list[bytes]]], partitions: int, offset: int, group: str = "aif"
) -> None:
    """Rows as a worker's stores on disk."""
    (folder / "worker-1").mkdir(parents=True, exist_ok=True)
    (folder / "worker-1" / "worker.json").write_text(json.dumps({"group": group, "partitions": partitions}))
    for table, rows in tables.items():
        for partition, (keys, values) in by_partition(rows, partitions).items():
            path = folder / "worker-1" / f"{table}-{partition}.db"
            store = Rdict(str(path), Options(raw_mode=True))
            for key, value in zip(keys, values, strict=True):
                store.put(key, value)
            store.put(CHANGELOG_OFFSET_KEY, struct.pack(">q", offset))
            store.close()


def test_without_broker_and_tables_it_says_so_and_goes_on_trying(world, make_feed) -> None:
    """Within 10 s the reason names the address and what to do; the feed does not give up and ends when told to."""
    feed = make_feed(world, Deployment(bootstrap_servers="127.0.0.1:9"))
    started_s = time.monotonic()
    feed.start()
    until(lambda: "no Kafka broker answers at 127.0.0.1:9" in world.progress.says, within_s=10)
    reasons = world.service.lookups.readiness()["reasons"]
    assert any("AIF_BOOTSTRAP_SERVERS" in reason for reason in reasons)
    assert feed.failed is None
    feed.stop()
    assert time.monotonic() - started_s < 10


def test_with_local_tables_it_serves_without_a_broker(world, make_feed, make_artifact, tmp_path) -> None:
    """Tables and artifacts of this host are enough to answer; the answer says how old they are."""
    artifact = make_artifact(1)
    tables = {
        "items": item_rows(ITEMS),
        "n2o_a": n2o_rows(n2o_records(artifact.manifest.version_tag, ITEMS)),
        "users": user_rows(1, [200, 201]),
    }
    write_tables(tmp_path / "tables", tables, partitions=2, offset=100)
    feed = make_feed(
        world, Deployment(bootstrap_servers="127.0.0.1:9", partitions=2, data_dir=tmp_path), tmp_path / "tables"
    )
    feed.start()
    until(lambda: world.versions.live, within_s=10)
    answer = world.rank(ITEMS)
    feed.stop()
    assert answer["model_version"] == artifact.version
    assert (answer["missing_items"], answer["behaviours_used"]) == (0, 2)
    assert answer["age_ms"] > time.time() * 1000 - NOW_MS - 60_000
    assert world.service.lookups.readiness()["ready"]


def test_a_damaged_local_table_leaves_its_changelog_to_be_read_whole(world, tmp_path) -> None:
    """A table that breaks off counts for nothing: its partition is read from the changelog's beginning."""
    deployment = Deployment(bootstrap_servers="127.0.0.1:9", partitions=1, data_dir=tmp_path)
    write_tables(tmp_path / "tables", {"items": item_rows(range(3000))}, partitions=1, offset=100)
    [file] = (tmp_path / "tables" / "worker-1" / "items-0.db").glob("*.sst")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))
    assert load_tables(world.writer, find_tables(tmp_path / "tables", deployment), None) == 0
    assert not any(world.writer.offsets.values())


class Writer:
    """Writes changelog rows as a worker does: one transaction, the watermark last in each partition."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._loop = asyncio.new_event_loop()
        self._producer = None
        self.state = Rollout()

    def __enter__(self) -> Writer:
        self._loop.run_until_complete(self._start())
        return self

    def __exit__(self, *_) -> None:
        self._loop.run_until_complete(self._producer.stop())
        self._loop.close()

    def write(self, table: str, rows, commit: bool = True) -> None:
        """One transaction over all partitions of a table."""
        self._loop.run_until_complete(self._write(table, rows, commit))

    def decide(self, decision: str, artifact, slot: str = "", **fields) -> None:
        """One decision on a version."""
        event = artifact.decided(decision, self.state, slot, **fields)
        self.state = self.state.applied(event)
        assert self.state.epoch == event["epoch"], f"{decision} does not count now"
        self.log(codec("rollout_event").encode(event))

    def build(self, artifact, **fields) -> str:
        """Publish a version and let it be built; its slot."""
        slot = self.state.free_slot
        self.decide("accept", artifact, **fields)
        self.decide("build", artifact, slot)
        return slot

    def go_live(self, artifact, seed: int = 0) -> str:
        """The whole way of a version, rows of all items included; its slot."""
        slot = self.build(artifact)
        self.write(slot, n2o_rows(n2o_records(artifact.tag, ITEMS, seed)))
        self.decide("cover", artifact)
        self.decide("live", artifact)
        return slot

    def log(self, record: bytes) -> None:
        """One record of rollout."""
        self._loop.run_until_complete(self._send(self._deployment.topic("rollout"), 0, [(b"model", record)]))

    async def _start(self) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._deployment.bootstrap_servers, transactional_id=f"writer-{uuid.uuid4().hex}"
        )
        await self._producer.start()

    async def _write(self, table: str, rows, commit: bool) -> None:
        await self._producer.begin_transaction()
        topic = self._deployment.changelog(table)
        for partition, (keys, values) in by_partition(rows, self._deployment.partitions).items():
            for key, value in zip(keys, values, strict=True):
                await self._producer.send(topic, value, key, partition=partition)
        await (self._producer.commit_transaction() if commit else self._producer.abort_transaction())

    async def _send(self, topic: str, partition: int, rows) -> None:
        async with self._producer.transaction():
            for key, value in rows:
                await self._producer.send(topic, value, key, partition=partition)


def answer(world: World, **fields) -> dict:
    """What /v1/rank says of the items to user 1."""
    return world.rank(ITEMS, **fields)


@pytest.mark.broker
def test_changelog_rows_become_servable(world, make_feed, make_artifact, deployment) -> None:
    """From committed transactions alone: catalogue, model, users, new versions, deletions; aborted rows never show."""
    first, second = make_artifact(1), make_artifact(2)
    create_topics(deployment)
    feed = make_feed(world, deployment)
    with Writer(deployment) as writer:
        writer.write("items", item_rows(ITEMS))
        writer.go_live(first)
        writer.write("users", user_rows(1, [200]))
        feed.start()
        until(lambda: world.versions.live)
        assert world.service.lookups.readiness()["ready"], world.service.lookups.readiness()
        assert (answer(world)["missing_items"], answer(world)["behaviours_used"]) == (0, 1)
        assert world.freshness.over(60) == {}  # what was there before the server is not late

        writer.write("users", user_rows(1, [200, 201, 202]), commit=False)
        writer.write("users", user_rows(2, [200]))
        until(lambda: world.store.users.head(2))
        assert answer(world)["behaviours_used"] == 1
        assert world.freshness.over(60)["users"].p99_ms < 5000

        writer.log(b"not a record")
        gone = writer.build(second, uri="/nowhere", manifest_sha256="0" * 64)
        until(lambda: world.versions.refused)
        assert answer(world)["model_version"] == first.version
        writer.decide("reject", second)
        slot = writer.go_live(second, seed=9)
        assert slot == gone == "n2o_b"
        until(lambda: world.versions.live.name == second.version, within_s=20)
        assert answer(world)["missing_items"] == 0

        keys = item_rows([200])[0]
        writer.write(slot, (keys, [None]))
        writer.write("items", (keys, [None]))
        until(lambda: world.store.items.get(200) is None)
        assert answer(world)["missing_items"] == 1
        until(lambda: not sum(world.progress.lag.values()))
    feed.stop()
    assert world.writer.refused == {("rollout", "not_single_object"): 1}


@pytest.mark.broker
def test_a_roll_back_takes_a_moment_and_no_row_goes_before_it(world, make_feed, make_artifact, deployment) -> None:
    """The retained version answers again at once; the tombstones that empty the other's slot, written right behind the
    decision, take nothing from any answer by it."""
    first, second = make_artifact(1), make_artifact(2)
    create_topics(deployment)
    feed, answers, over = make_feed(world, deployment), [], threading.Event()

    def asking() -> None:
        while not over.is_set():
            found = answer(world)
            answers.append((found["model_version"], found["missing_items"]))

    with Writer(deployment) as writer:
        writer.write("items", item_rows(ITEMS))
        writer.go_live(first)
        feed.start()
        until(lambda: world.versions.live)
        slot = writer.go_live(second, seed=2)
        until(lambda: world.versions.live.name == second.version)
        asker = threading.Thread(target=asking)
        asker.start()
        until(lambda: answers)
        writer.decide("rollback", second)
        writer.write(slot, (item_rows(ITEMS)[0], [None] * len(ITEMS)))
        until(lambda: world.versions.live.name == first.version, within_s=5)
        until(lambda: len(world.writer.slabs) == 1)
        over.set()
        asker.join()
    feed.stop()
    assert set(answers) == {(second.version, 0), (first.version, 0)}


@pytest.mark.broker
def test_local_tables_are_continued_from_their_offset(world, make_feed, make_artifact, deployment, tmp_path) -> None:
    """Rows come from the stores, then from the changelog after their offset; stores of another broker are left out."""
    artifact = make_artifact(1)
    create_topics(deployment)
    with Writer(deployment) as writer:
        writer.write("users", user_rows(1, [200]))  # in the store, below its offset
        writer.write("users", user_rows(1, [200, 201]))  # after it
        writer.write("items", item_rows(ITEMS))
        writer.go_live(artifact)
    partition = partition_of(1, deployment.partitions)
    write_tables(tmp_path / "tables", {"users": user_rows(5, [200])}, deployment.partitions, 0, deployment.group)
    write_tables(tmp_path / "tables", {"items": item_rows([1, 2, 3])}, deployment.partitions, 10_000, deployment.group)
    feed = make_feed(world, deployment, tmp_path / "tables")
    feed.start()
    until(lambda: world.versions.live)
    feed.stop()
    assert world.store.users.head(5), "the store's rows are there"
    assert answer(world)["behaviours_used"] == 2, f"partition {partition} was read on"
    assert len(world.store.items) == len(ITEMS), "a store that is ahead of the broker was not used"


@pytest.mark.broker
def test_while_the_broker_is_away_it_answers_and_then_catches_up(
    world, make_feed, make_artifact, deployment, broker
) -> None:
    """Killed broker: answers go on and age. Broker back: rows written meanwhile become servable without a restart."""
    artifact = make_artifact(1)
    create_topics(deployment)
    with Writer(deployment) as writer:
        writer.write("items", item_rows(ITEMS))
        writer.go_live(artifact)
    feed = make_feed(world, deployment)
    feed.start()
    until(lambda: world.versions.live)
    broker.kill()
    try:
        until(lambda: not world.progress.connected, within_s=20)
        assert answer(world)["missing_items"] == 0
        assert answer(world)["age_ms"] > 500
        assert world.service.lookups.readiness()["ready"]
        assert world.service.lookups.readiness()["broker"] == "unreachable"
    finally:
        broker.start()
    with Writer(deployment) as writer:
        writer.write("users", user_rows(1, [200, 201]))
        until(lambda: answer(world)["behaviours_used"] == 2, within_s=30)
        until(lambda: answer(world)["age_ms"] < 5000)
    feed.stop()
    assert feed.failed is None


@pytest.mark.broker
def test_missing_topics_are_named_until_they_exist(world, make_feed, deployment) -> None:
    """A server that starts before its topics waits for them and says which command makes them."""
    feed = make_feed(world, deployment)
    feed.start()
    until(lambda: "aif topics create" in world.progress.says, within_s=10)
    create_topics(deployment)
    until(lambda: world.progress.caught_up)
    feed.stop()
    assert world.progress.connected


@pytest.mark.broker
def test_a_changelog_that_was_made_anew_is_never_mixed_with_the_old_one(
    world, make_feed, make_artifact, deployment
) -> None:
    """The feed ends and says so, for another state to be made; answers go on from the rows that are there."""
    artifact = make_artifact(1)
    create_topics(deployment)
    with Writer(deployment) as writer:
        writer.write("items", item_rows(ITEMS))
        writer.go_live(artifact)
    feed = make_feed(world, deployment)
    feed.start()
    until(lambda: world.versions.live)
    with admin_client(deployment) as admin:
        admin.delete_topics([deployment.changelog("items")])
    until(lambda: "do not exist" in world.progress.says or feed.failed)
    create_topics(deployment)
    until(lambda: feed.failed, within_s=20)
    feed.stop()
    assert "made anew" in str(feed.failed)
    assert answer(world)["missing_items"] == 0
