"""Slots beside live traffic: no interleaving of updates, scans, roll-outs and moves spoils rows or counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rows_in_memory import RowsInMemory

from domain.activity_row import NO_SNAPSHOT, Snapshots
from domain.artifact import Manifest
from domain.n2o import Flag
from domain.rollout import SLOTS, Phase, Terms, Version
from domain.user_row import FINGERPRINT
from models.config import ModelConfig
from models.tower import LoadedTower
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key
from schemas.records import BuildProgress
from streams import slot_builds
from streams.fold import REBUILD_START, Piece, Writes
from streams.fresh_items import FreshItems
from streams.item_model import Feed, ItemModel
from streams.item_updates import ItemUpdatesFold

DEPLOYMENT = Deployment(embedding_dim=4, signature_bits=64)
TOPIC_ID = 77
ITEMS = range(-3, 6)
#: A price that the sick model makes no finite vector of.
SICK = 13.0


@dataclass
class Record:
    """A source record."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = 10**12


def _model(name: str) -> ItemModel:
    """A model whose vectors are made of the item's inputs and its own name; "sick" makes none where the price is 13."""
    config = ModelConfig.of(DEPLOYMENT)
    dims = config.dimensions
    layout = dims.layout
    manifest = Manifest(dims, DEPLOYMENT.signature_version, FINGERPRINT, layout.stride, {}, {"name": name})
    salt = len(name)

    def tower(embedding: Any, category: Any, numeric: Any) -> tuple[Any, Any]:
        mixed = numeric.sum(dim=1, keepdim=True) + salt
        if name == "sick":
            mixed = torch.where((numeric[:, :1] - np.log1p(SICK)).abs() < 1e-3, torch.nan, mixed)
        return mixed.repeat(1, dims.vector_dim), torch.ones(len(numeric), dims.bridges)

    return ItemModel(manifest, LoadedTower(tower, manifest))


MODELS = [_model(name) for name in ("first", "other one", "sick")]


class Tables(RowsInMemory):
    """Tables of one partition in memory."""

    def write(self, writes: Writes | None) -> None:
        """What the store does."""
        for table, rows in (writes.rows if writes else {}).items():
            assert len({key for key, _ in rows}) == len(rows), "one row per key per batch"
            for key, value in rows:
                if value is None:
                    del self.rows[table][key]  # a deletion of what is not there would be a row for nothing
                else:
                    self.rows[table][key] = value


class World:
    """A fold, its tables, what users did, and what was reported."""

    def __init__(self) -> None:
        self.tables, self.fresh, self.offset = Tables(), FreshItems(), 0
        self.made_ms: dict[bytes, int] = {}
        self.progress: dict[tuple[str, int], BuildProgress] = {}
        self.reported: set[str] = set()  #: versions that build-progress holds a report of
        self.feeds: dict[str, Feed] = {}
        self.take_over()

    def take_over(self) -> None:
        """Another worker goes on with the tables; announcements of the last one are lost."""
        self.fresh = FreshItems()
        self.fold = ItemUpdatesFold(DEPLOYMENT, self.activity, self.fresh, worker="w")
        self.fold.feed(self.feeds)
        self.at: Any = REBUILD_START

    def activity(self, partition: int, keys: Sequence[bytes]) -> Snapshots:
        """ActivityReader."""
        found = Snapshots.none(len(keys))
        found.made_ms[:] = [self.made_ms.get(key, NO_SNAPSHOT) for key in keys]
        found.features[:] = np.maximum(found.made_ms, 0)[:, None] / 100
        return found

    def update(self, item: int, price: float, op: str = "upsert", time_ms: int | None = None) -> None:
        """An update of the catalogue is applied."""
        self.offset += 1
        value = {"event_id": self.offset, "item_id": item, "op": op, "price": price, "embedding": bytes(16),
                 "event_time_ms": 1000 + self.offset if time_ms is None else time_ms}  # fmt: skip
        record = Record(self.offset, entity_key(item), codec("item_update").encode(value))
        writes = self.fold.fold(0, TOPIC_ID, [record], self.tables)
        deleted = {(slot, key) for slot in SLOTS for key, row in writes.rows.get(slot, ()) if row is None}
        for slot, key in deleted:  # an update does not look whether there is a row to delete
            self.tables.rows[slot].setdefault(key, b"")
        self.tables.write(writes)

    def piece(self, limit: int) -> Piece:
        """One piece of a rebuild is applied."""
        piece = self.fold.rebuild(0, self.tables, self.at, limit)
        self.tables.write(piece.writes)
        self.at = piece.at
        for sent in piece.writes.outgoing if piece.writes else ():
            version, _, partition = sent.key.decode().partition("/")
            assert (sent.topic, sent.partition, partition) == ("build-progress", 0, "0")
            if sent.value is None:
                assert version not in {feed.version.name for feed in self.feeds.values()}, "its build is under way"
                self.reported.remove(version)  # nothing is deleted twice
                continue
            report: Any = codec("build_progress").decode(sent.value)
            assert report["version"] == version
            self.reported.add(version)
            self.progress[report["version"], report["build_epoch"]] = report
        return piece

    def look(self) -> None:
        """The worker looks which reports are of versions that are gone; what it found may soon be untrue."""
        fed = {feed.version.name for feed in self.feeds.values()}
        self.fold.withdraw([(version, partition) for version in self.reported - fed for partition in (0, 1)])

    def settle(self) -> None:
        """Pieces until nothing is left to do."""
        while self.piece(3).more:
            pass

    def feed(self, slot: str, model: ItemModel | None, phase: Phase, epoch: int = 1, paused: bool = False) -> None:
        """The roll-out moves on."""
        name = model.version if model else "0" * 16
        version = Version(name, phase, "", "", Terms(), "", 0, 0, slot=slot, build_epoch=epoch, paused=paused)
        self.feeds = {**self.feeds, slot: Feed(version, model)}
        self.fold.feed(self.feeds)

    def retire(self, slot: str) -> None:
        """A slot is free."""
        self.feeds = {other: feed for other, feed in self.feeds.items() if other != slot}
        self.fold.feed(self.feeds)

    def expected(self, model: ItemModel, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The rows that a model makes of these items as they are now."""
        found: dict[bytes, bytes] = {}
        for key in keys:
            rows = [codec("item_row").decode(self.tables.rows["items"][key])]
            columns = slot_builds.ItemColumns.of(rows, model.row_format)  # type: ignore[arg-type]
            [(_, value)] = model.n2o_rows([key], columns, self.activity(0, [key]))
            if value is not None:
                found[key] = value
        return found


_AFTER = {
    Phase.BUILDING: [Phase.BUILDING, Phase.COVERED, Phase.RETIRED],
    Phase.COVERED: [Phase.COVERED, Phase.LIVE, Phase.RETIRED],
    Phase.LIVE: [Phase.LIVE, Phase.RETAINED, Phase.RETIRED],
    Phase.RETAINED: [Phase.RETAINED, Phase.LIVE, Phase.RETIRED],
}
_items, _slots = st.sampled_from(ITEMS), st.sampled_from(SLOTS)


class Interleavings(RuleBasedStateMachine):
    """Everything that may happen to a partition's slots, in any order."""

    @initialize()
    def begin(self) -> None:
        """An empty partition."""
        self.world, self.epoch = World(), 0

    @rule(
        item=st.sampled_from(ITEMS), price=st.sampled_from([1.0, 2.0, SICK]), op=st.sampled_from(["upsert", "delete"])
    )
    def update(self, item: int, price: float, op: str) -> None:
        """A new item, a new version of one, or a deletion."""
        self.world.update(item, price, op)

    @rule(item=_items)
    def late_update(self, item: int) -> None:
        """An update that an item has long overtaken."""
        self.world.update(item, 5.0, time_ms=1)

    @rule(item=_items, announced=st.booleans())
    def snapshot(self, item: int, announced: bool) -> None:
        """Users' actions are counted; where nobody says so, the owner ended before it could."""
        key = entity_key(item)
        self.world.made_ms[key] = self.world.made_ms.get(key, 0) + 100
        if announced:
            self.world.fresh.announce(0, {key: self.world.made_ms[key]})
        else:
            self.world.take_over()

    @rule(limit=st.integers(1, 4))
    def piece(self, limit: int) -> None:
        """A piece of rebuild."""
        self.world.piece(limit)

    @rule()
    def look(self) -> None:
        """Somebody looks for reports on versions that are gone."""
        self.world.look()

    @rule()
    def take_over(self) -> None:
        """The partition moves."""
        self.world.take_over()

    @rule(
        slot=st.sampled_from(SLOTS), model=st.sampled_from(MODELS), phase=st.sampled_from([Phase.BUILDING, Phase.LIVE])
    )
    def build(self, slot: str, model: ItemModel, phase: Phase) -> None:
        """A version is decided to be built in a slot."""
        self.epoch += 1
        self.world.feed(slot, model, phase, self.epoch)

    @precondition(lambda self: self.world.feeds)
    @rule(data=st.data())
    def moves_on(self, data: st.DataObject) -> None:
        """A version changes its phase, is paused, or is retired."""
        slot = data.draw(st.sampled_from(sorted(self.world.feeds)))
        feed = self.world.feeds[slot]
        phase = data.draw(st.sampled_from(_AFTER[feed.version.phase]))
        if phase is Phase.RETIRED:
            self.world.retire(slot)
        else:
            self.world.feed(slot, feed.model, phase, feed.version.build_epoch, data.draw(st.booleans()))

    @invariant()
    def what_a_scan_has_passed_is_right(self) -> None:
        """Behind each scan every item has the row of its update and snapshot, or is rejected; counts are exact."""
        world = self.world
        slots = world.fold.slots.get(0) if world.at is not REBUILD_START else None
        announced = set(world.fresh.some(0, 100))
        for slot, build in (slots.builds if slots else {}).items():
            feed = world.feeds.get(slot)
            if feed is None or feed.model is None or (build.version, build.epoch) != (
                feed.version.name, feed.version.build_epoch
            ):  # fmt: skip
                continue  # the next piece begins another build
            behind = [key for key in world.tables.rows["items"] if build.passed(key)]
            expected = world.expected(feed.model, behind)
            rows = world.tables.rows[slot]
            assert [key for key in behind if key not in announced and rows.get(key) != expected.get(key)] == []
            settled = [key for key in behind if key not in announced]
            assert build.looked == len(behind)
            assert build.rejected & set(settled) == set(settled) - expected.keys()

    def teardown(self) -> None:
        """Once nothing is left to do, every slot is complete, free ones are empty, and reports say exactly that."""
        world = getattr(self, "world", None)
        if world is None:
            return
        for slot, feed in list(world.feeds.items()):
            world.feed(slot, feed.model, feed.version.phase, feed.version.build_epoch)
        world.look()
        world.settle()
        assert world.reported <= {feed.version.name for feed in world.feeds.values()}
        items = list(world.tables.rows["items"])
        for slot, feed in world.feeds.items():
            assert feed.model is not None
            expected = world.expected(feed.model, items)
            assert {key: row for key, row in world.tables.rows[slot].items() if row} == expected
            if feed.building:
                report = world.progress[feed.version.name, feed.version.build_epoch]
                found = {name: report[name] for name in ("items", "written", "rejected", "done", "problem")}  # type: ignore[literal-required]
                rejected = len(items) - len(expected)
                assert report["done"] and report["worker"] == "w"
                if not self._updated_since(report):
                    assert found == {"items": len(items), "written": len(expected), "rejected": rejected,
                                     "done": True, "problem": ""}  # fmt: skip
        if any(feed.version.phase is Phase.LIVE for feed in world.feeds.values()):
            assert all(not world.tables.rows[slot] for slot in set(SLOTS) - set(world.feeds))

    def _updated_since(self, report: Any) -> bool:
        return (
            report["items"] != len(self.world.tables.rows["items"])
            or self.world.at.builds[self._slot_of(report)].looked != report["items"]
            or len(self.world.at.builds[self._slot_of(report)].rejected) != report["rejected"]
        )

    def _slot_of(self, report: Any) -> str:
        return next(slot for slot, feed in self.world.feeds.items() if feed.version.name == report["version"]
                    and feed.version.build_epoch == report["build_epoch"])  # fmt: skip


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestInterleavings = Interleavings.TestCase


def _filled(items: int) -> World:
    world = World()
    for item in range(items):
        world.update(item, SICK if item % 10 == 3 else 100.0 + item)
    return world


def _flags(row: bytes) -> Flag:
    layout = ModelConfig.of(DEPLOYMENT).dimensions.layout
    record = np.frombuffer(codec("n2o_row").decode(row)["record"], layout.dtype)[0]
    return Flag(int(record["flags"]))


def test_every_fed_slot_receives_an_update_in_its_batch() -> None:
    """One update, three fed versions: three records, each of its version, in the transaction of the item's row."""
    world = _filled(4)
    for slot, model, phase in zip(SLOTS, MODELS, (Phase.LIVE, Phase.BUILDING, Phase.RETAINED), strict=True):
        world.feed(slot, model, phase)
    world.update(1, 7.0, "delete")
    for slot, model in zip(SLOTS, MODELS, strict=True):
        key = entity_key(1)
        assert world.tables.rows[slot] == world.expected(model, [key])
        assert Flag.DELETED in _flags(world.tables.rows[slot][key])


def test_a_scan_raises_no_deleted_item_and_keeps_what_is_newer() -> None:
    """Items deleted and updated while a scan runs keep their marker and their newest update when it is through."""
    world = _filled(9)
    world.feed("n2o_b", MODELS[0], Phase.BUILDING)
    for step in range(5):
        world.piece(2)
        world.update(step, 1.0, "delete")
        world.update(8 - step, 100.0 + step)
    world.settle()
    rows = world.tables.rows["n2o_b"]
    assert rows == world.expected(MODELS[0], list(world.tables.rows["items"]))
    assert [item for item in range(9) if Flag.DELETED in _flags(rows[entity_key(item)])] == [0, 1, 2, 3]


def test_rejected_items_have_no_row_and_are_counted() -> None:
    """A vector that is not finite is no row, deletes the one before it, and counts until a better update comes."""
    world, sick = _filled(20), MODELS[2]
    world.feed("n2o_a", sick, Phase.BUILDING)
    world.settle()
    report = world.progress[sick.version, 1]
    assert (report["items"], report["written"], report["rejected"], report["done"]) == (20, 18, 2, True)
    world.update(5, SICK)
    world.update(13, 2.0)
    build = world.at.builds["n2o_a"]
    assert build.rejected == {entity_key(3), entity_key(5)} and build.written == 18
    assert world.fold.fold(0, TOPIC_ID, [], world.tables).rows == {}


def test_a_new_owner_only_looks_at_what_is_done() -> None:
    """After a take-over in the middle of a build, rows that stand are not made again, and all are counted."""
    world = _filled(10)
    world.feed("n2o_a", MODELS[0], Phase.BUILDING)
    for _ in range(4):
        world.piece(3)
    made = dict(world.tables.rows["n2o_a"])
    assert 0 < len(made) < 10
    world.take_over()
    written = 0
    while (piece := world.piece(3)).more:
        written += len(piece.writes.rows.get("n2o_a", ())) if piece.writes else 0
    assert written == 10 - len(made)
    assert world.progress[MODELS[0].version, 1]["written"] == 10


def test_an_empty_partition_reports() -> None:
    """A partition without items is done, and says so: the others must not wait for it."""
    world = World()
    world.feed("n2o_a", MODELS[0], Phase.BUILDING)
    world.settle()
    report = world.progress[MODELS[0].version, 1]
    assert (report["items"], report["written"], report["rejected"], report["done"]) == (0, 0, 0, True)


def test_a_paused_build_stands_still_and_takes_updates() -> None:
    """Paused, a version is not built on; updates go into its slot; resumed, the build goes on where it was."""
    world = _filled(9)
    world.feed("n2o_a", MODELS[0], Phase.BUILDING)
    for _ in range(3):
        world.piece(2)
    world.feed("n2o_a", MODELS[0], Phase.BUILDING, paused=True)
    before = dict(world.tables.rows["n2o_a"])
    world.settle()
    assert world.tables.rows["n2o_a"] == before and len(before) < 9
    world.update(8, 50.0)
    assert world.tables.rows["n2o_a"].keys() == before.keys() | {entity_key(8)}
    world.feed("n2o_a", MODELS[0], Phase.BUILDING)
    world.settle()
    assert len(world.tables.rows["n2o_a"]) == 9


def test_a_live_version_is_never_paused() -> None:
    """A version promoted while it was paused is looked after like any live one."""
    world = _filled(3)
    world.feed("n2o_a", MODELS[0], Phase.LIVE, paused=True)
    world.settle()
    assert len(world.tables.rows["n2o_a"]) == 3


def test_a_freed_slot_is_emptied_in_pieces_once_a_version_is_live() -> None:
    """Rows of a retired version go, a limited number at a time, and not before it is decided what answers."""
    world = _filled(7)
    world.feed("n2o_a", MODELS[0], Phase.BUILDING)
    world.settle()
    world.retire("n2o_a")
    world.settle()
    assert len(world.tables.rows["n2o_a"]) == 7, "nothing is live"
    world.feed("n2o_b", MODELS[1], Phase.LIVE)
    while (piece := world.piece(3)).more:
        assert piece.writes is None or len(piece.writes.rows.get("n2o_a", ())) <= 3
    assert (len(world.tables.rows["n2o_a"]), len(world.tables.rows["n2o_b"])) == (0, 7)


def test_reports_on_versions_that_are_gone_are_deleted(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever wrote them: once each, again after another build, and never those of a version that is fed."""
    world, names = _filled(3), [model.version for model in MODELS]
    world.feed("n2o_a", MODELS[0], Phase.BUILDING)
    world.settle()
    world.reported |= {names[1], "0" * 16}
    world.take_over()
    world.look()
    world.feed("n2o_b", MODELS[1], Phase.BUILDING, epoch=2)  # after the look
    with caplog.at_level("INFO"):
        world.settle()
    assert world.reported == set(names[:2])
    assert f"reports on builds of {'0' * 16} are deleted" in caplog.text
    for epoch in (3, 4):
        world.feed("n2o_a", MODELS[0], Phase.BUILDING, epoch)
        world.settle()
        world.retire("n2o_a")
        world.look()
        world.settle()
        assert world.reported == {names[1]}


def test_a_version_that_cannot_be_had_is_reported_once() -> None:
    """Where a building version's artifact cannot be had, its progress says why, once, and again when it changes."""
    world = _filled(3)
    world.feed("n2o_a", None, Phase.BUILDING)
    world.settle()
    assert not world.progress
    version = world.feeds["n2o_a"].version
    for problem in ("no such file", "no such file", "item_tower.pt2 differs"):
        world.feeds = {"n2o_a": Feed(version, None, problem)}
        world.fold.feed(world.feeds)
        world.settle()
    assert world.progress[version.name, 1]["problem"] == "item_tower.pt2 differs"
    assert world.piece(3).writes is None


def test_a_version_that_rejects_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more items are rejected than are remembered, the build stops with that as its problem."""
    monkeypatch.setattr(slot_builds, "_MOST_REJECTED", 4)
    world, sick = World(), MODELS[2]
    for item in range(30):
        world.update(item, SICK)
    world.feed("n2o_a", sick, Phase.BUILDING)
    world.settle()
    report = world.progress[sick.version, 1]
    assert (report["problem"], report["done"]) == (
        "more than 4 items of a partition have vectors that are not finite",
        False,
    )
    assert not world.tables.rows["n2o_a"]


def test_progress_is_reported_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pieces there are, at most one report a second goes with them, and one when all is done."""
    now = [100.0]
    world = _filled(40)
    world.feed("n2o_a", MODELS[0], Phase.BUILDING)
    world.at = slot_builds.PartitionSlots(0, "w", clock=lambda: now[0])
    reports: list[Any] = []
    while (piece := world.piece(2)).more:
        now[0] += 0.25
        sent = piece.writes.outgoing if piece.writes else []
        reports += [codec("build_progress").decode(each.value) for each in sent]
    assert [report["written"] for report in reports] == [2, 10, 18, 26, 34, 40]
    assert [report["items"] for report in reports] == [40] * 6, "counted before the first row is made"
    assert [report["done"] for report in reports] == [False] * 5 + [True]
    assert [report["items_per_s"] for report in reports] == [0, 8, 8, 8, 8, 8]
