"""Which model versions the worker keeps rows of: topic `rollout` folded, and their item models loaded.

Every worker reads the topic without a group, from the start, for its whole life: the log's order decides, so all
arrive at the same state. A worker that takes a partition over first asks `caught_up`: from then on it knows at least
what the partition's last owner knew, and no version that was reported as built can miss an update.

A version whose artifact cannot be had is tried again for ever: a copy may be under way. While it is building, workers
say so after some seconds in its progress, and the coordinator rejects it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from domain.artifact import check_artifact
from domain.rollout import Rollout, Version
from schemas.artifact_cache import local_artifact
from schemas.deployment import Deployment
from schemas.errors import AifError, BadRecord
from streams import metrics
from streams.changelog import translated
from streams.item_model import Feed, ItemModel
from streams.rollout_log import decisions
from streams.topic_reader import committed_consumer

__all__ = ["RolloutFollower"]

logger = logging.getLogger(__name__)

#: Before a building version's artifact that cannot be had is held against it.
_PROBLEM_AFTER_S: Final = 10.0
_RETRY_S: Final = 1.0
_RETRY_MOST_S: Final = 30.0
#: How long a take-over waits for the models of the versions that are fed; updates go on without them then.
_MODELS_WITHIN_S: Final = 30.0


@dataclass
class _Loading:
    """What was tried for one version."""

    model: ItemModel | None = None
    tried: bool = False
    problem: str = ""


class RolloutFollower:
    """Reads topic rollout for the life of the worker, and hands the versions to feed on."""

    def __init__(
        self, deployment: Deployment, feed: Callable[[Mapping[str, Feed]], None],
        load: Callable[[Version], ItemModel] | None = None,
    ) -> None:  # fmt: skip
        """`feed` is called with the fed versions by slot whenever they, or their models, change."""
        self._deployment, self._feed = deployment, feed
        self._load = load or (lambda version: _loaded(version, deployment))
        self._tp = TopicPartition(deployment.topic("rollout"), 0)
        self._consumer: AIOKafkaConsumer | None = None
        self._read_to = 0
        self._loading: dict[str, _Loading] = {}
        self._loaders: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Condition()
        self.state = Rollout()
        #: False once a decision was of a schema that this build does not know: a newer one may know more. What is no
        #: decision to anybody does not count.
        self.knows_all = True
        self.feeds: Mapping[str, Feed] = {}

    async def run(self) -> None:
        """Follow the topic until cancelled. Raises Unavailable where the broker is gone for too long."""
        with translated(f"reading {self._tp.topic}"):
            consumer = committed_consumer(self._deployment.bootstrap_servers, auto_offset_reset="earliest")
            await consumer.start()
            try:
                consumer.assign([self._tp])
                await consumer.seek_to_beginning(self._tp)
                await self._follow(consumer)
            finally:
                for loader in self._loaders.values():
                    loader.cancel()
                await consumer.stop()

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        await self._notify()
        while True:
            found = await consumer.getmany(self._tp, timeout_ms=500)
            await self.take([record for records in found.values() for record in records])
            self._read_to = await consumer.position(self._tp)
            await self._notify()

    async def take(self, records: list[Any]) -> None:
        """Fold some records of the topic, in log order."""
        state = self.state
        for event in decisions(records, self._unreadable):
            state = state.applied(event)
        if state is not self.state:
            self.state = state
            self._attend()
            await self._notify()

    def _unreadable(self, error: BadRecord) -> None:
        metrics.rollout_unreadable.inc()
        self.knows_all = self.knows_all and error.reason != "unknown_schema"

    async def caught_up(self) -> None:
        """Wait until all that the topic holds now is folded, and the models of its fed versions were tried."""
        await self.read_to_end()
        try:
            async with asyncio.timeout(_MODELS_WITHIN_S):
                await self._until(lambda: not self._untried())
        except TimeoutError:
            logger.warning("taking over without the models of %s", ", ".join(self._untried()))

    async def read_to_end(self) -> None:
        """Wait until all that the topic holds now is folded."""
        await self._until(lambda: self._consumer is not None)
        assert self._consumer is not None
        with translated(f"reading {self._tp.topic}"):
            end = (await self._consumer.end_offsets([self._tp]))[self._tp]
        await self._until(lambda: self._read_to >= end)

    async def changed(self, since: Rollout) -> Rollout:
        """The state, as soon as it is another than this one."""
        await self._until(lambda: self.state is not since)
        return self.state

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _untried(self) -> list[str]:
        return [version.name for version in self.state.fed.values() if not self._loading[version.name].tried]

    def _attend(self) -> None:
        """Load the models of versions that are fed, let go of the others'."""
        fed = {version.name for version in self.state.fed.values()}
        for name in set(self._loading) - fed:
            del self._loading[name]
            self._loaders.pop(name).cancel()
        for version in self.state.fed.values():
            if version.name not in self._loading:
                self._loading[version.name] = _Loading()
                loader = asyncio.create_task(self._load_in_the_end(version.name), name=f"load {version.name}")
                self._loaders[version.name] = loader
        self._hand_on()

    def _hand_on(self) -> None:
        feeds = {}
        for slot, version in self.state.fed.items():
            loading = self._loading[version.name]
            feeds[slot] = Feed(version, loading.model, loading.problem)
        self.feeds = feeds
        metrics.slots(self.state.fed.values())
        metrics.fed_without_model.set(sum(feed.model is None for feed in feeds.values()))
        self._feed(feeds)

    async def _load_in_the_end(self, name: str) -> None:
        loading, began, wait_s = self._loading[name], asyncio.get_running_loop().time(), _RETRY_S
        while loading.model is None:
            version = self.state.get(name)
            assert version is not None, "it is fed: its task ends with that"
            try:
                loading.model = await asyncio.to_thread(self._load, version)
                loading.problem = ""
                logger.info(
                    "model %s (%s) in slot %s: its rows are kept from now on", name, version.phase, version.slot
                )
            except Exception as error:  # a model that cannot be used must not take the worker with it
                waited_s = asyncio.get_running_loop().time() - began
                if waited_s >= _PROBLEM_AFTER_S:
                    loading.problem = str(error)
                metrics.model_loads_failed.inc()
                logger.error(
                    "model %s is %s and cannot be loaded: its rows in %s fall behind. Trying again in %.0f s: %s",
                    name, version.phase, version.slot, wait_s, error, exc_info=not isinstance(error, AifError),
                )  # fmt: skip
            loading.tried = True
            self._hand_on()
            await self._notify()
            if loading.model is None:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_MOST_S)


def _loaded(version: Version, deployment: Deployment) -> ItemModel:
    folder: Path = local_artifact(
        version.uri, version.name, version.manifest_sha256, deployment.data_dir, check_artifact
    )
    return ItemModel.load(folder, version.name, deployment)
