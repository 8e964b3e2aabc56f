from __future__ import annotations

import os
import time

import pytest

from schemas.deployment import Deployment
from serving.rollout.following import Follower
from serving.tables.progress import Progress
from tests.serving.conftest import item_rows, user_rows

ITEMS = range(100, 110)


class Followed:
    """A follower of the world's state, at a time that the test sets."""

    def __init__(self, world, monkeypatch) -> None:
        self.now_s = 1000.0
        self._settled = 0
        self._settle = world.versions.settle
        monkeypatch.setattr("serving.rollout.following.time.monotonic", lambda: self.now_s)
        monkeypatch.setattr(world.versions, "settle", self.settle)
        monkeypatch.setattr(world.versions, "next_to_load", lambda: None)  # a model that was loaded is settled too
        self._follower = Follower(Deployment(), world.folder, world.store, world.versions, Progress())

    def settle(self) -> None:
        """As before, and counted."""
        self._settled += 1
        self._settle()

    def settles(self) -> bool:
        """One step; whether it settled."""
        before = self._settled
        self._follower.step()
        return self._settled > before


@pytest.fixture
def followed(world, monkeypatch) -> Followed:
    """A follower that has seen what is there."""
    found = Followed(world, monkeypatch)
    assert found.settles()
    return found


def test_nothing_is_looked_at_again_while_nothing_changes(world, followed, make_artifact) -> None:
    """A step settles after a slab, a decision or a switch of what answers, not after rows and not without a change."""
    assert not followed.settles()
    world.apply("users", user_rows(1, ITEMS))
    assert not followed.settles()
    artifact = make_artifact(3)
    world.apply("items", item_rows(ITEMS))
    world.build(artifact)
    assert followed.settles()
    world.fill(artifact, ITEMS)
    assert followed.settles()
    assert not followed.settles()
    world.folder.control.live = artifact.tag
    assert followed.settles()
    assert not followed.settles()


def test_what_no_mark_tells_is_found_a_moment_later(followed) -> None:
    """Half a second after the last look all is looked at again, whatever the marks say."""
    followed.now_s += 0.49
    assert not followed.settles()
    followed.now_s += 0.02
    assert followed.settles()


def test_files_that_come_and_go_change_the_mark(world) -> None:
    """The mark of a store's files moves with each file that appears or goes, and not when one is written."""
    store = world.store
    path, before = store.folder / "some.slab", store.files_mark()
    for change, moves in ((path.touch, True), (lambda: os.utime(path), False), (path.unlink, True)):
        time.sleep(0.02)  # two changes within one tick of the kernel's clock may look alike
        change()
        assert (store.files_mark() != before) == moves
        before = store.files_mark()
