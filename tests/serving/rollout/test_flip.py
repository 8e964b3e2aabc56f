"""Which version a host answers by, whatever the log, its rows, its processes and its feeder do."""

from __future__ import annotations

import os
import signal
import time

import pytest

from schemas.codec import codec
from schemas.errors import Corrupt
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.rollout.announcements import RolloutLog, live_at_once, rollout_in
from serving.rollout.control import ControlPage
from serving.rollout.flip import Flip
from serving.rollout.versions import Versions, load_model
from serving.tables.store import SlabKey, Store
from tests.serving.conftest import NOW_MS, item_rows, n2o_records, n2o_rows

ITEMS = range(1000)


class Process:
    """Another scoring process, as the control page knows it; its id is one that runs."""

    def __init__(self, world, *tags: int) -> None:
        self.row = world.folder.control.claim_row()
        self.row.tags = frozenset(tags)


class Clock:
    """Monotonic seconds, set by hand."""

    def __init__(self, world) -> None:
        self.now_s = 100.0
        world.flip._now_s = lambda: self.now_s


@pytest.fixture
def pair(world, make_artifact):
    """A version that answers, and one that is covered everywhere but not decided on."""
    old, new = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(old, ITEMS)
    world.cover(new, ITEMS, seed=2)
    return old, new


def test_a_host_follows_the_log_once_its_own_rows_reach_the_terms(world, make_artifact) -> None:
    """Covered and loaded is not live; live in the log is not yet live here: the version before answers until this
    host has as many rows as the version's own gate asks for."""
    old, new = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(old, ITEMS)
    slot = world.build(new, gate=0.99)
    keys, values = n2o_rows(n2o_records(new.tag, ITEMS))
    world.apply(slot, (keys[:989], values[:989]))
    world.load()
    world.decide("cover", new)
    assert not world.advance()
    world.decide("live", new)
    assert not world.advance()
    assert (world.versions.live.name, world.service.lookups.readiness()["ready"]) == (old.version, True)
    world.apply(slot, (keys[989:990], values[989:990]))
    assert world.advance()
    assert world.versions.live.name == new.version
    assert not world.advance()


def test_rows_may_come_before_the_decision_to_build(world, make_artifact) -> None:
    """Topics have no order among each other: rows that are ahead of the log are kept and count once it is read."""
    artifact = make_artifact(1)
    world.apply("items", item_rows(ITEMS))
    world.apply("n2o_a", n2o_rows(n2o_records(artifact.tag, ITEMS)))
    assert not world.advance() and world.versions.next_to_load() is None
    world.build(artifact)
    world.load()
    world.decide("cover", artifact)
    world.decide("live", artifact)
    assert world.advance()
    assert world.rank(range(5))["missing_items"] == 0


def test_an_empty_catalogue_covers_nothing(world, make_artifact) -> None:
    """A host that knows no item yet does not take 0 of 0 rows for coverage: not ready, and it says what is missing."""
    artifact = make_artifact(1)
    world.build(artifact)
    world.fill(artifact, range(3))
    world.load()
    world.decide("cover", artifact)
    world.decide("live", artifact)
    assert not world.advance()
    assert "waits for its rows" in world.service.lookups.readiness()["reasons"][0]


def test_a_process_that_is_slow_is_waited_for_and_one_that_hangs_is_not(world, pair) -> None:
    """Every process that answers must have the version warm; after ten seconds the others switch without it."""
    old, new = pair
    clock, slow = Clock(world), Process(world, old.tag)
    world.decide("live", new)
    assert not world.advance()
    slow.row.tags = frozenset({old.tag, new.tag})
    assert world.advance()
    slow.row.tags = frozenset({new.tag})
    world.decide("rollback", new)
    assert not world.advance(), "half a second is left to it"
    clock.now_s += 0.6
    assert world.advance()
    slow.row.tags = frozenset({old.tag})
    world.decide("accept", new)
    world.decide("build", new)
    world.fill(new, ITEMS)
    world.load()
    world.decide("cover", new)
    world.decide("live", new)
    assert not world.advance()
    clock.now_s += 9.0
    assert not world.advance()
    clock.now_s += 1.1
    assert world.advance()


def test_a_process_that_answers_by_nothing_yet_delays_nobody(world, pair) -> None:
    """One that has just started has no version warm: it loads what is live by then."""
    _, new = pair
    Process(world)
    world.decide("live", new)
    assert world.advance()


def test_nobody_switches_to_a_version_that_no_process_could_load(world, make_artifact) -> None:
    """However long it takes: the version before is retained and fed, and answers."""
    old, bad = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(old, ITEMS)
    clock = Clock(world)
    world.build(bad)
    world.fill(bad, ITEMS)
    world.decide("cover", bad)
    world.decide("live", bad)
    for _ in range(3):
        clock.now_s += 60
        assert not world.advance()
    assert world.rank(range(5))["model_version"] == old.version
    assert world.state.retained.name == old.version


def test_a_roll_back_is_at_once_and_so_is_going_forth_again(world, pair) -> None:
    """The retained version is loaded, warm and fed: one look of the feeder, and the old scores are back; the version
    that was taken back can be published again, into the slot that is being emptied of it, and goes live."""
    _, new = pair
    before = world.rank(range(5))["items"]
    world.decide("live", new)
    assert world.advance()
    assert world.rank(range(5))["items"] != before
    world.decide("rollback", new)
    assert world.advance()
    assert world.rank(range(5))["items"] == before
    keys = item_rows(ITEMS)[0]
    world.apply("n2o_b", (keys[:400], [None] * 400))
    assert world.build(new) == "n2o_b"
    world.apply("n2o_b", (keys[400:600], [None] * 200))
    world.apply("n2o_b", n2o_rows(n2o_records(new.tag, range(600), seed=2)))  # of the others the rows are still there
    world.load()
    world.decide("cover", new)
    world.decide("live", new)
    assert world.advance()
    assert world.rank(range(5))["missing_items"] == 0


def test_a_cancelled_build_leaves_nothing_behind(world, make_artifact) -> None:
    """Retired, rejected or superseded on its way: what answers stays, the model is let go, and once the workers have
    emptied the slot its slab goes too."""
    live, first, second = (make_artifact(seed) for seed in (1, 2, 3))
    world.apply("items", item_rows(ITEMS))
    world.go_live(live, ITEMS)
    world.cover(first, ITEMS)
    world.decide("accept", second)
    world.decide("retire", first, reason=f"superseded by {second.version}")
    world.decide("build", second)
    world.fill(second, range(10))
    world.load()
    assert {each.name for each in world.versions.in_use} == {live.version, second.version}
    world.decide("reject", second)
    assert not world.advance()
    assert [each.name for each in world.versions.in_use] == [live.version]
    for slot in ("n2o_b", "n2o_c"):
        world.apply(slot, (item_rows(ITEMS)[0], [None] * len(ITEMS)))
    world.advance()
    assert [key.tag for key in world.store.slabs] == [live.tag]


def test_of_competing_decisions_the_one_that_counts_is_followed(world, make_artifact) -> None:
    """Two coordinators for a moment: the second decision of an epoch, a late one and one that cannot be read change
    nothing here, though all of them are kept."""
    first, second = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(first, ITEMS)
    world.cover(second, ITEMS)
    before, encode = world.state, codec("rollout_event").encode
    lost = [
        encode(first.decided("rollback", before, epoch=before.epoch)),
        encode(second.decided("live", before, epoch=before.epoch - 1)),
        encode(second.decided("live", before, epoch=before.epoch + 2)),
        b"not a record",
    ]
    number = len(world.store.decisions())
    world.writer.decide([(number + place, value) for place, value in enumerate(lost)])
    assert world.state == before and not world.advance()
    world.decide("live", second)
    assert world.advance()
    assert world.writer.refused == {("rollout", "not_single_object"): 1}


@pytest.mark.parametrize("decided", ["live", "rollback"])
def test_a_feeder_that_is_killed_in_the_middle_goes_on_where_it_was(world, pair, decided) -> None:
    """Before it could switch, after a decision it had kept: the next feeder reads log, rows and who answers from the
    host's files and switches; after it had switched, the next one leaves it at that."""
    old, new = pair
    world.decide("live", new)
    if decided == "rollback":
        world.advance()
        world.decide("rollback", new)
    wanted = new if decided == "live" else old
    number = world.folder.control.state
    world.store.close()  # as the kernel does with what a killed process held
    with_new = Store(world.folder.path(number), world.folder.readers, writable=True)
    try:
        writer, log = StoreWriter(with_new), RolloutLog(with_new)
        flip = Flip(writer, ControlPage(world.folder.folder / "control"))
        assert flip.advance(log.state)
        assert world.folder.control.live == wanted.tag
        assert not Flip(writer, world.folder.control).advance(log.state)
    finally:
        with_new.close()
        world.store.rows._open(with_new.rows.path, writable=True)


def test_a_scoring_process_killed_in_the_middle_comes_back_by_what_is_live(world, pair) -> None:
    """kill -9 after it had loaded the version that comes: it is waited for no more; started again, it loads what is
    live first and answers by that."""
    _, new = pair
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        row = world.folder.control.claim_row()
        row.tags = frozenset({world.folder.control.live})
        os.write(told, b"!")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    world.decide("live", new)
    assert not world.advance(), "the process answers, and has not loaded it"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert world.advance()
    again = Versions(world.store, world.folder.control)
    try:
        version = again.next_to_load()
        assert version.name == new.version
        again.loaded(load_model(version, world.deployment))
        assert again.live.name == new.version
    finally:
        again.close()


def test_a_state_of_an_earlier_layout_is_made_anew_and_says_so(tmp_path, caplog) -> None:
    """Files of another build are not read: one clear line, an empty state, and nothing answers until it is filled."""
    folder = StateFolder(tmp_path / "serving")
    number, store = folder.open_or_create()
    folder.control.live = 7
    with store.rows.writing() as txn:
        txn.put("facts", [(b"format", b"1")])
    store.close()
    with pytest.raises(Corrupt, match="of another build: its layout is 1, this one's 2"):
        folder.open_current()
    again, store = folder.open_or_create()
    assert again == number + 1 and "Another state is made" in caplog.text
    assert (folder.control.live, store.decisions(), store.slabs) == (0, [], {})
    store.close()


def test_what_a_host_needs_to_answer_alone_is_a_log_of_four(make_artifact) -> None:
    """Rows without a log, as tables of this host without a broker: the decisions made up for them make them live."""
    artifact = make_artifact(1)
    events = live_at_once(SlabKey("n2o_c", artifact.tag), str(artifact.folder), "0" * 64, NOW_MS, "found")
    state = rollout_in([codec("rollout_event").encode(event) for event in events])
    assert (state.live.name, state.live.slot, state.epoch) == (artifact.version, "n2o_c", 4)
