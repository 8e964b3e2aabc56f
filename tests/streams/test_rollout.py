"""The follower of topic rollout: state, models, and what it says of those that cannot be had."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from domain.rollout import Rollout, Version
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, Unavailable
from streams import rollout
from streams.item_model import Feed
from streams.rollout import RolloutFollower

NAMES = ["0" * 15 + str(number) for number in range(4)]


class Log:
    """Records of topic rollout, as a coordinator writes them."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self._state = Rollout()

    def add(self, value: bytes) -> None:
        """Write a record."""
        self.records.append(SimpleNamespace(topic="rollout", offset=len(self.records), value=value))

    def live(self, name: str, decisions: Sequence[str] = ("accept", "build", "cover", "live")) -> None:
        """Decide on a version until it is live, or as far as asked."""
        for decision in decisions:
            event: Any = {
                "epoch": self._state.epoch + 1, "event_time_ms": 1, "decision": decision, "version": name,
                "slot": self._state.free_slot if decision == "build" else "", "command_offset": -1, "uri": f"/{name}",
                "manifest_sha256": "", "gate": 1.0, "auto": True, "shadow_s": 0, "min_overlap": 0.0, "retain_s": 9,
                "by": "me", "reason": "",
            }  # fmt: skip
            self._state = self._state.applied(event)
            assert self._state.epoch == event["epoch"]
            self.add(codec("rollout_event").encode(event))


class Models:
    """Models that can be loaded, or not."""

    def __init__(self) -> None:
        self.failing: dict[str, Exception] = {}
        self.loaded: list[str] = []

    def __call__(self, version: Version) -> Any:
        """Load one."""
        if version.name in self.failing:
            raise self.failing[version.name]
        self.loaded.append(version.name)
        return SimpleNamespace(version=version.name)


def _followed(story: Callable[[RolloutFollower, Log, Models, list[Mapping[str, Feed]]], Any]) -> None:
    async def run() -> None:
        fed: list[Mapping[str, Feed]] = []
        models = Models()
        follower = RolloutFollower(Deployment(), fed.append, models)
        async with asyncio.timeout(10):
            await story(follower, Log(), models, fed)

    asyncio.run(run())


async def _until(holds: Callable[[], Any]) -> None:
    while not holds():  # noqa: ASYNC110 (threads load, there is no event for it)
        await asyncio.sleep(0.005)


def test_fed_versions_are_handed_on_with_their_models() -> None:
    """Each fed version is in its slot, first without its model, then with it; one that is gone is let go."""

    async def story(follower: RolloutFollower, log: Log, models: Models, fed: list[Mapping[str, Feed]]) -> None:
        for name in NAMES[:2]:
            log.live(name)
        await follower.take(log.records)
        assert [(slot, feed.version.name, feed.model) for slot, feed in fed[0].items()] == [
            ("n2o_a", NAMES[0], None), ("n2o_b", NAMES[1], None),
        ]  # fmt: skip
        await _until(lambda: all(feed.model for feed in fed[-1].values()))
        assert sorted(models.loaded) == NAMES[:2] and follower.state.live is not None
        known = len(log.records)
        log.live(NAMES[2])
        await follower.take(log.records[known:])
        await _until(lambda: all(feed.model for feed in fed[-1].values()))
        assert {slot: feed.version.name for slot, feed in fed[-1].items()} == {"n2o_b": NAMES[1], "n2o_c": NAMES[2]}
        assert models.loaded == [*models.loaded[:2], NAMES[2]], "a model that is there is not loaded again"

    _followed(story)


def test_what_cannot_be_read_is_passed_over_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A record that is no decision is logged with its offset and counted; the decisions around it count.

    Bytes of a schema that this build does not know may be a decision to a newer one, junk is none to anybody.
    """

    async def story(follower: RolloutFollower, log: Log, models: Models, fed: list[Mapping[str, Feed]]) -> None:
        log.add(b"junk")
        log.live(NAMES[0])
        before = REGISTRY.get_sample_value("aif_rollout_unreadable_total") or 0
        with caplog.at_level(logging.ERROR):
            await follower.take(log.records)
        assert (REGISTRY.get_sample_value("aif_rollout_unreadable_total") or 0) == before + 1
        assert "rollout offset 0 is passed over" in caplog.text
        assert follower.state.live is not None and follower.state.live.name == NAMES[0]
        assert follower.knows_all
        log.add(b"\xc3\x01" + bytes(16))
        await follower.take(log.records[-1:])
        assert not follower.knows_all

    _followed(story)


def test_nothing_is_handed_on_while_nothing_is_decided() -> None:
    """Records that change nothing call nobody."""

    async def story(follower: RolloutFollower, log: Log, models: Models, fed: list[Mapping[str, Feed]]) -> None:
        await follower.take([])
        log.live(NAMES[0])
        await follower.take(log.records)
        calls = len(fed)
        await follower.take(log.records)
        assert len(fed) == calls

    _followed(story)


@pytest.mark.parametrize("error", [ArtifactError("item_tower.pt2 differs"), Unavailable("away"), ValueError("odd")])
def test_a_model_that_cannot_be_loaded_is_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever fails, updates go on, the build has a problem after a while, and the model is loaded once it can be."""
    monkeypatch.setattr(rollout, "_RETRY_S", 0.005)
    monkeypatch.setattr(rollout, "_PROBLEM_AFTER_S", 0.2)

    async def story(follower: RolloutFollower, log: Log, models: Models, fed: list[Mapping[str, Feed]]) -> None:
        models.failing[NAMES[0]] = error
        log.live(NAMES[0], ("accept", "build"))
        await follower.take(log.records)
        await _until(lambda: len(fed) > 1)
        assert fed[1]["n2o_a"].problem == "", "a copy may be under way"
        await _until(lambda: fed[-1]["n2o_a"].problem)
        assert fed[-1]["n2o_a"].problem == str(error) and fed[-1]["n2o_a"].model is None
        assert REGISTRY.get_sample_value("aif_fed_versions_without_model") == 1
        del models.failing[NAMES[0]]
        await _until(lambda: fed[-1]["n2o_a"].model)
        assert fed[-1]["n2o_a"].problem == "" and REGISTRY.get_sample_value("aif_fed_versions_without_model") == 0

    _followed(story)


class Consumer:
    """The log as a consumer reads it, two records at a time; its end is what was written so far."""

    def __init__(self, log: Log) -> None:
        self._log, self._at = log, 0
        self.reads = asyncio.Event()

    async def end_offsets(self, tps: list[Any]) -> dict[Any, int]:
        """Behind the last record."""
        return {tps[0]: len(self._log.records)}

    async def getmany(self, tp: Any, timeout_ms: int) -> dict[Any, list[Any]]:
        """The next records."""
        await self.reads.wait()
        await asyncio.sleep(0.001)
        found = self._log.records[self._at : self._at + 2]
        self._at += len(found)
        return {tp: found}

    async def position(self, tp: Any) -> int:
        """Behind what was read."""
        return self._at


def test_catching_up_waits_for_the_end_and_for_models() -> None:
    """It ends when all that was decided before is folded and every fed model was tried, and not before."""

    async def story(follower: RolloutFollower, log: Log, models: Models, fed: list[Mapping[str, Feed]]) -> None:
        log.live(NAMES[0])
        consumer: Any = Consumer(log)
        models.failing[NAMES[0]] = Unavailable("away")
        following = asyncio.create_task(follower._follow(consumer))
        waiting = asyncio.create_task(follower.caught_up())
        await asyncio.sleep(0.03)
        assert not waiting.done()
        consumer.reads.set()
        await waiting
        assert follower.state.live is not None and fed[-1]["n2o_a"].model is None, "tried, and in vain"
        since = follower.state
        changed = asyncio.create_task(follower.changed(since))
        log.live(NAMES[1])
        await follower.caught_up()
        assert follower.state.live.name == NAMES[1] and fed[-1]["n2o_b"].model is not None
        assert (await changed) is not since
        following.cancel()

    _followed(story)
