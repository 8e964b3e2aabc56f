"""Health and metrics pages of a worker: what is owned, restored, applied, and how far behind.

`/livez` answers while the process runs. `/readyz` is 200 when every owned partition is restored and applying, 503
with the reasons otherwise. `/metrics` is Prometheus text.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import faust
from faust.types import TP
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from streams.partition import LanePartition
    from streams.topology import Worker

__all__ = ["attach_health", "health"]


def attach_health(app: faust.App, worker: Worker) -> None:
    """Add the pages to the worker's web server."""

    @app.page("/livez")  # type: ignore[untyped-decorator]
    async def livez(web: Any, request: Any) -> Any:
        return web.json({"live": True})

    @app.page("/readyz")  # type: ignore[untyped-decorator]
    async def readyz(web: Any, request: Any) -> Any:
        report = health(worker)
        return web.json(report, status=200 if report["ready"] else 503)

    @app.page("/metrics")  # type: ignore[untyped-decorator]
    async def metrics(web: Any, request: Any) -> Any:
        return web.bytes(generate_latest(), content_type=CONTENT_TYPE_LATEST.split(";")[0])


def health(worker: Worker) -> dict[str, Any]:
    """The worker's state as `/readyz` shows it."""
    partitions = [
        _partition(worker, partition) for lane in worker.lanes for _, partition in sorted(lane.partitions.items())
    ]
    waiting = [entry["partition"] for entry in partitions if not entry["ready"]]
    rebalancing = bool(worker.app.rebalancing) or not worker.app.tables.actives_ready
    return {
        "ready": not waiting and not rebalancing,
        "reason": "rebalancing" if rebalancing else f"restoring {', '.join(waiting)}" if waiting else "",
        "worker": worker.settings.name,
        "rollout": _rollout(worker),
        # Items that users act on, whose vectors do not follow yet.
        "items_awaiting_vectors": worker.fresh.count,
        "partitions": partitions,
        "standbys": [
            {"partition": f"{lane.topic}-{number}", "rows_behind": sum(standby.behind.values())}
            for lane in worker.lanes
            for number, standby in sorted(lane.standbys.items())
        ],
    }


def _rollout(worker: Worker) -> dict[str, Any]:
    follower = worker.follower
    if follower is None:
        return {}
    live = follower.state.live
    return {
        "epoch": follower.state.epoch,
        "live": live.name if live else None,
        "slots": {
            slot: {"version": feed.version.name, "phase": feed.version.phase, "loaded": feed.model is not None}
            | ({"problem": feed.problem} if feed.problem else {})
            for slot, feed in follower.feeds.items()
        },
    }


def _partition(worker: Worker, partition: LanePartition) -> dict[str, Any]:
    lane, cursor = partition.lane, partition.cursor
    highwater = _highwater(worker, partition.tp)
    since = partition.last_batch_at
    return {
        "partition": f"{lane.topic}-{partition.partition}",
        "ready": partition.ready,
        "next_offset": cursor.expected if cursor else None,
        "lag": max(0, highwater - cursor.expected) if cursor and highwater is not None else None,
        "rows_to_restore": sum(partition.rows_to_restore.values()),
        "seconds_since_last_batch": None if since is None else round(time.monotonic() - since, 1),
    }


def _highwater(worker: Worker, tp: TP) -> int | None:
    try:
        found = worker.app.consumer.highwater(tp)
    except Exception:  # the consumer raises several unrelated kinds while it is between assignments
        return None
    return int(found) if found is not None else None
