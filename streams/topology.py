"""The worker as a whole: which agents run, on which topics, into which tables.

Nothing happens on import. `build_worker` makes a Faust app and attaches everything to it; `streams/worker.py` is the
one module with an app of its own, for Faust's command line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
from faust.events import Event
from faust.types import TP

from domain import item_column_kernel, user_kernel
from schemas.deployment import Deployment, settings_from_env
from schemas.errors import BadInput
from streams import internals
from streams.artifact_upkeep import look_after_copies
from streams.batching import URL_SCHEME, register_transport
from streams.coordinator import Coordinator
from streams.datadir import claim
from streams.destinations import require_destinations
from streams.failpoint import Failpoint
from streams.fold import Fold
from streams.fresh_items import FreshItems, TableActivity
from streams.health import attach_health
from streams.item_activity import ItemActivityFold
from streams.item_model import Feed
from streams.item_updates import ItemUpdatesFold
from streams.lane import KafkaRim, Lane
from streams.loop_watch import watch_loop
from streams.rollout import RolloutFollower
from streams.sources import source_topic_ids
from streams.tables import BatchedTable, LaneTableManager
from streams.user_events import UserEventsFold

__all__ = ["Worker", "WorkerSettings", "build_worker"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of one worker process.

    Environment variable of a field: `AIF_WORKER_` + its name in capitals. Raises BadInput naming the variable.
    """

    #: Names the worker's folder under <data_dir>/tables; one per worker of a host.
    name: str = "worker-0"
    #: Where health, metrics and Faust's web pages listen.
    web_host: str = "127.0.0.1"
    web_port: int = 6066
    #: How long the group waits for a silent worker before it gives its partitions away, seconds.
    session_timeout_s: float = 20.0
    #: Kafka's static membership: with a stable name, a restart within the session moves no partition. Empty: dynamic.
    instance_id: str = ""
    #: Copies of each partition's tables kept warm on other workers.
    standby_replicas: int = 0
    #: How long the broker may take no batch before the worker ends itself (status 69) to be restarted, seconds.
    broker_budget_s: float = 60.0
    #: Whether tables of a source topic that was deleted and made again are emptied and made anew from it.
    reset_recreated: bool = False
    #: Items a second that the rebuild of a model version may look at, all partitions together; 0: as fast as live
    #: updates allow.
    rebuild_items_per_s: float = 0.0
    #: For crash tests; see failpoint.py.
    failpoint: str = ""

    def __post_init__(self) -> None:
        one_name = bool(self.name) and self.name not in (".", "..") and not set(self.name) & {"/", "\0"}
        _require(one_name, "NAME", "the name of a folder", self.name)
        _require(0 < self.web_port < 65_536, "WEB_PORT", "a port from 1 to 65535", self.web_port)
        # Kafka's own upper limit, unless the broker says otherwise (group.max.session.timeout.ms).
        _require(1 <= self.session_timeout_s <= 1_800, "SESSION_TIMEOUT_S", "1 to 1800 seconds", self.session_timeout_s)
        _require(self.broker_budget_s > 0, "BROKER_BUDGET_S", "more than 0 seconds", self.broker_budget_s)
        _require(self.rebuild_items_per_s >= 0, "REBUILD_ITEMS_PER_S", "at least 0 a second", self.rebuild_items_per_s)
        _require(self.standby_replicas >= 0, "STANDBY_REPLICAS", "a number of at least 0", self.standby_replicas)

    @classmethod
    def from_env(cls, env: Mapping[str, str], **overrides: object) -> WorkerSettings:
        """Settings from `AIF_WORKER_*` variables; `overrides` that are not None win."""
        return cls(**settings_from_env(cls, env, "AIF_WORKER_", overrides))


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise BadInput(f"AIF_WORKER_{name} (--{name.lower().replace('_', '-')}) must be {expected}, not {found!r}")


def worker_folder(deployment: Deployment, settings: WorkerSettings) -> Path:
    """Where a worker's tables live."""
    return deployment.data_dir / "tables" / settings.name


@dataclass
class Worker:
    """A built worker: Faust app, lanes, and what runs beside them."""

    deployment: Deployment
    settings: WorkerSettings
    app: faust.App
    rim: KafkaRim
    failpoint: Failpoint
    lanes: list[Lane] = field(default_factory=list)
    follower: RolloutFollower | None = None
    coordinator: Coordinator | None = None
    fresh: FreshItems = field(default_factory=FreshItems)
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the worker's tables live."""
        return worker_folder(self.deployment, self.settings)

    def prepare(self) -> None:
        """Check the broker, the topics and the folder before anything starts; see the modules that are called."""
        internals.check()
        source_topic_ids(self.deployment, [lane.topic for lane in self.lanes])
        require_destinations(self.deployment)
        self._lock = claim(self.folder, self.deployment)
        (self.folder / "faust").mkdir(exist_ok=True)
        compile_s = item_column_kernel.COMPILE_S + user_kernel.COMPILE_S  # much only in a fresh checkout
        logger.info("folds and decoders are compiled: %.1f s", compile_s)

    async def on_started(self, app: faust.App, **_: Any) -> None:
        """Start what runs beside the agents."""
        assert self.follower is not None and self.coordinator is not None
        beside = [
            ("rollout", self.follower.run()),
            ("coordinator", self.coordinator.run()),
            ("copies of artifacts", look_after_copies(self.deployment.data_dir, self.follower)),
            ("loop watch", watch_loop()),
            *((f"watch {lane.topic}", lane.watch()) for lane in self.lanes),
        ]
        for name, work in beside:
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(self._on_task_done)
            self._tasks.append(task)

    def coordinates(self) -> bool:
        """Whether roll-outs are this worker's to decide on without waiting: it owns partition 0 of item-updates.

        Also while it restores the partition's tables: a roll-back must not wait for that.
        """
        return 0 in self.lanes[0].partitions

    async def on_partitions_revoked(self, app: faust.App, revoked: set[TP], **_: Any) -> None:
        """Every rebalance takes all partitions first."""
        await asyncio.gather(*(lane.revoked() for lane in self.lanes))

    async def on_partitions_assigned(self, app: faust.App, assigned: set[TP], **_: Any) -> None:
        """And says afterwards which ones are ours."""
        standbys = app.assignor.assigned_standbys()
        await asyncio.gather(*(lane.assigned(assigned, standbys) for lane in self.lanes))

    async def on_before_shutdown(self, app: faust.App, **_: Any) -> None:
        """Finish the batches in hand and close the stores."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(lane.stop() for lane in self.lanes))
        logger.info("worker %s stopped: everything in hand is committed", self.settings.name)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.lanes[0].fail(error, TP(task.get_name(), -1))


class _LaneTopic(faust.Topic):  # type: ignore[misc]
    """A topic whose messages are `FetchedBatch`es: there is nothing for Faust to decode."""

    def _compile_decode(self) -> None:
        async def decode(message: Any, *, propagate: bool = False) -> Event:
            return Event(self.app, None, message.value, {}, message)

        self.decode = decode


def build_worker(deployment: Deployment, settings: WorkerSettings) -> Worker:
    """The worker, ready to be prepared and run."""
    register_transport()
    servers = [f"{URL_SCHEME}://{server.strip()}" for server in deployment.bootstrap_servers.split(",")]
    app = faust.App(
        deployment.group,
        broker=servers,
        store="memory://",
        datadir=worker_folder(deployment, settings) / "faust",
        Topic=_LaneTopic,
        TableManager=LaneTableManager,
        topic_allow_declare=False,  # `aif topics create` makes topics, with their retention and time stamps
        topic_disable_leader=True,
        topic_partitions=deployment.partitions,
        broker_max_poll_records=5_000,
        broker_session_timeout=settings.session_timeout_s,
        # A worker may own nothing, or restore, for hours. aiokafka would take it for dead because it does not poll,
        # leave the group and not come back. The lane notices for itself when it stands still.
        broker_max_poll_interval=30 * 86_400.0,
        broker_heartbeat_interval=min(3.0, settings.session_timeout_s / 4),
        broker_request_timeout=max(90.0, settings.session_timeout_s),
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.instance_id or None,
        table_standby_replicas=settings.standby_replicas,
        stream_wait_empty=True,
        worker_redirect_stdouts=False,
        web_enabled=True,
        web_bind=settings.web_host,
        web_host=settings.web_host,
        web_port=settings.web_port,
        web_tables_enabled=False,
        web_router_enabled=False,
    )
    worker = Worker(deployment, settings, app, KafkaRim(deployment), Failpoint.parse(settings.failpoint))
    items = ItemUpdatesFold(deployment, fresh=worker.fresh, worker=settings.name)
    users, activity = UserEventsFold(deployment), ItemActivityFold(deployment, worker.fresh)
    worker.lanes = [_attach(worker, fold) for fold in (items, users, activity)]
    items.activity = _activity_of(worker.lanes[2])
    worker.lanes[2].on_progress = worker.lanes[0].wake_partition

    def feed(feeds: Mapping[str, Feed]) -> None:
        items.feed(feeds)
        worker.lanes[0].wake()

    def withdraw(outdated: frozenset[tuple[str, int]]) -> None:
        items.withdraw(outdated)
        worker.lanes[0].wake()

    worker.follower = RolloutFollower(deployment, feed)
    worker.coordinator = Coordinator(
        deployment, worker.follower, worker.coordinates, broker_budget_s=settings.broker_budget_s, outdated=withdraw
    )
    worker.lanes[0].before_taking_over = worker.follower.caught_up
    app.on_partitions_revoked.connect(worker.on_partitions_revoked)
    app.on_partitions_assigned.connect(worker.on_partitions_assigned)
    app.on_before_shutdown.connect(worker.on_before_shutdown)
    app.task(worker.on_started)
    attach_health(app, worker)
    return worker


def _activity_of(lane: Lane) -> TableActivity:
    """What the item lane reads of the activity lane's table."""

    def restored(number: int) -> bool:
        partition = lane.partitions.get(number)
        return partition is not None and partition.cursor is not None

    def used(number: int) -> bool:
        partition = lane.partitions.get(number)
        return partition is None or partition.watermark is not None

    return TableActivity(lane.tables["item_activity"], restored, used)


def _attach(worker: Worker, fold: Fold) -> Lane:
    app, deployment = worker.app, worker.deployment
    topic = app.topic(deployment.topic(fold.source), key_type=bytes, value_type=bytes, partitions=deployment.partitions)
    tables = {name: _table(worker, name) for name in fold.tables}
    lane = Lane(
        app, deployment, fold, tables, worker.rim,
        reset_recreated=worker.settings.reset_recreated, broker_budget_s=worker.settings.broker_budget_s,
        rebuild_rows_per_s=worker.settings.rebuild_items_per_s if fold.source == "item-updates" else 0.0,
        failpoint=worker.failpoint,
    )  # fmt: skip

    async def agent(batches: Any) -> None:
        async for batch in batches:
            lane.offer(batch)

    app.agent(topic, name=fold.source.replace("-", "_"), concurrency=1)(agent)
    return lane


def _table(worker: Worker, name: str) -> BatchedTable:
    app, deployment = worker.app, worker.deployment
    changelog = app.topic(
        deployment.changelog(name), key_type=bytes, value_type=bytes, partitions=deployment.partitions
    )
    table = BatchedTable(
        app, name=name, changelog_topic=changelog, partitions=deployment.partitions, key_type=bytes, value_type=bytes
    )
    app.tables.add(table)
    return table.place(worker.folder)
