"""User events through the real worker, and through Quix Streams' sliding window, on the same broker in the same run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from bench.job import Job, free_port, pinned
from bench.load import produce, read_changelog
from bench.machine import Cores
from bench.measures import Bench, Figure, _rate
from bench.streams import own_broker
from bench.window_load import user_batches
from domain.partitioner import partitions_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from schemas.ids import entity_key
from schemas.records import ACTIONS

__all__ = ["measure_lane"]

_ENTITY_KEY_BYTES: Final = 8


def measure_lane(events: int, users: int) -> dict[str, Any]:
    """`user_events_per_s` (also with a tenth of all events on one user) and `quix_window_per_s`, once each.

    The CPU time is the whole worker's, the activity lane behind the user lane included.
    """
    cores = Cores.available()
    with pinned(cores.rest), own_broker() as (servers, folder):
        bench = Bench(servers, folder, cores, events, users)
        uniform, hot = _ours(bench, 0.0), _ours(bench, 0.1)
        rival = _quix(bench)
    return {
        "user_events_per_s": round(uniform["value"]),
        "user_events_hot_per_s": round(hot["value"]),
        "worker_cpu_us_per_event": round(1e6 * uniform["cpu_share"] / uniform["value"], 1),
        "quix_window_per_s": round(rival["value"]),
        "worker / quix window": round(uniform["value"] / rival["value"], 2),
        "worker_changelog_bytes_per_event": round(uniform["changelog_bytes_per_event"]),
        "worker_records_per_row": round(uniform["records_per_row"], 2) if "records_per_row" in uniform else None,
    }


def _ours(bench: Bench, hot: float) -> Figure:
    with bench.deployment() as deployment:
        produce(deployment, deployment.topic("user-events"), _messages(deployment, bench.records, bench.keys, hot))
        found = bench.run("bench.window_worker", Job.of(deployment, bench.records, web_port=free_port()))
        _check(deployment, bench.records)
        figure = {"value": found["records"] / found["seconds"], "cpu_share": found["cpu_s"] / found["seconds"]}
        return figure | {
            "changelog_bytes_per_event": found["changelog_bytes_per_event"],
            "records_per_row": found["records"] / found["rows"],
        }


def _quix(bench: Bench) -> Figure:
    records = bench.records // 4
    with bench.deployment() as deployment:
        produce(deployment, deployment.topic("user-events"), _messages(deployment, records, bench.keys, 0.0))
        return _rate(bench.run("bench.rivals.quix_window", Job.of(deployment, records)))


def _messages(deployment: Deployment, events: int, users: int, hot: float) -> Iterator[tuple[int, bytes, bytes]]:
    encode = codec("user_event").encode
    (batch,) = user_batches(events, users, events, hot=hot)
    shift_ms = int(time.time() * 1000) - int(batch.event_time_ms[-1])
    names = ("event_id", "user_id", "item_id", "event_time_ms", "action", "category_id", "value")
    columns = [getattr(batch, name).tolist() for name in names]
    partitions = partitions_of(batch.user_id, deployment.partitions).tolist()
    for partition, event, user, item, at, action, category, value in zip(partitions, *columns, strict=True):
        record = {
            "event_id": event, "user_id": user, "item_id": item, "event_time_ms": at + shift_ms,
            "action": ACTIONS[action], "category_id": category, "value": value if value == value else None,
        }  # fmt: skip
        yield partition, entity_key(user), encode(record)


def _check(deployment: Deployment, records: int) -> None:
    """Raise Corrupt unless the rows hold every event exactly once."""
    decode = codec("user_head").decode
    newest = read_changelog(deployment, deployment.changelog("users")).newest
    heads = [decode(value) for (_, key), value in newest.items() if len(key) == _ENTITY_KEY_BYTES]
    held = sum(head["counted"] for head in heads)
    if held != records:
        raise Corrupt(f"{records} events went in, the rows hold {held}: the figure means nothing")
