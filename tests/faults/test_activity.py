"""Item vectors follow what users do: once an interval, after any crash, and the same after a recompute of users."""

from __future__ import annotations

import shutil
import signal
from typing import Any

import numpy as np
import pytest
from fleet import Traffic, WorkerProcess, drained, recreate, running, verified, wait_for
from kafka import KafkaProducer

from domain.activity_row import NO_SNAPSHOT
from domain.n2o import N2OLayout
from domain.partitioner import partition_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key
from schemas.stores_on_disk import store_name
from streams.inspection import Snapshot, find_row, newest_stores

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

NOW_MS = 1_500_000_000_000
ITEM = 7
_LAYOUT = N2OLayout(64, 16, 64)


class Shop:
    """One item, and users who click it."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._producer = KafkaProducer(bootstrap_servers=deployment.bootstrap_servers, acks="all")
        self._events = 0

    def _send(self, topic: str, entity: int, value: bytes) -> None:
        partition = partition_of(entity, self._deployment.partitions)
        self._producer.send(self._deployment.topic(topic), value, entity_key(entity), partition=partition).get(20)

    def list_item(self) -> None:
        """Put the item into the catalogue."""
        record = {"event_id": 1, "item_id": ITEM, "event_time_ms": NOW_MS, "op": "upsert", "price": 2.0}
        self._send("item-updates", ITEM, codec("item_update").encode(record))

    def click(self, time_ms: int, user: int = 1) -> None:
        """A user clicks it."""
        self._events += 1
        record = {"event_id": self._events, "user_id": user, "item_id": ITEM, "event_time_ms": time_ms,
                  "action": "click"}  # fmt: skip
        self._send("user-events", user, codec("user_event").encode(record))


def _record(deployment: Deployment) -> Any:
    """The item's N2O record as the worker's table has it now; None before there is one."""
    _, value = find_row(deployment, "n2o_a", ITEM)
    return None if value is None else np.frombuffer(codec("n2o_row").decode(value)["record"], _LAYOUT.dtype)[0]


def _snapshot_ms(deployment: Deployment) -> int | None:
    record = _record(deployment)
    return None if record is None else int(record["snapshot_ms"])


def _follows(deployment: Deployment, made_ms: int) -> None:
    """Wait until the vector is made with the snapshot of this time."""
    wait_for(lambda: _snapshot_ms(deployment) == made_ms, 30, lambda: f"{_snapshot_ms(deployment)}, not {made_ms}")


def _rows(deployment: Deployment, table: str) -> dict[bytes, bytes]:
    """All entities' rows of a table on this machine."""
    found: dict[bytes, bytes] = {}
    for store in newest_stores(deployment, table).values():
        with Snapshot(store) as snapshot:
            found |= dict(snapshot.rows())
    return found


def test_a_vector_follows_clicks_once_an_interval(deployment: Deployment, traffic: Traffic) -> None:
    """The first click moves the item's vector; further ones within the interval do not, the one at its end does."""
    shop, worker = Shop(deployment), WorkerProcess(deployment)
    with running(worker):
        worker.wait_ready()
        shop.list_item()
        drained(deployment, worker)
        _follows(deployment, NO_SNAPSHOT)
        vectors = [_record(deployment)["vector"].tobytes()]
        for start_ms in (NOW_MS, NOW_MS + 600_000):
            shop.click(start_ms)
            _follows(deployment, start_ms)
            vectors.append(_record(deployment)["vector"].tobytes())
            made = worker.metric("aif_rebuilt_rows_total")
            for second in (1, 300, 599):
                shop.click(start_ms + 1000 * second, user=second)
            drained(deployment, worker)
            assert (_snapshot_ms(deployment), worker.metric("aif_rebuilt_rows_total")) == (start_ms, made)
        assert len(set(vectors)) == 3
        report = verified(deployment)
    assert report.coverage["n2o_a"].awaiting_activity == 0
    assert report.rows["item_activity"] == 1


def test_a_crash_before_the_vector_followed_is_caught_up(deployment: Deployment, traffic: Traffic) -> None:
    """Killed when the activity batch is stored and no vector is made of it, the next start makes it, from the scan."""
    shop, worker = Shop(deployment), WorkerProcess(deployment)
    with running():
        worker.start()
        shop.list_item()
        shop.click(NOW_MS)
        drained(deployment, worker)
        _follows(deployment, NOW_MS)
        assert worker.stop() == 0
        worker.start("--failpoint", "kill:stored:2")  # the user's batch, then the item's
        worker.wait_ready()
        shop.click(NOW_MS + 600_000)
        assert worker.process.wait(60) == -signal.SIGKILL
        _, value = find_row(deployment, "item_activity", ITEM)
        assert value is not None
        assert codec("item_activity_row").decode(value)["snapshot_ms"] == NOW_MS + 600_000
        assert _snapshot_ms(deployment) == NOW_MS
        assert verified(deployment).coverage["n2o_a"].awaiting_activity == 1
        worker.start()
        _follows(deployment, NOW_MS + 600_000)
        assert verified(deployment).coverage["n2o_a"].awaiting_activity == 0
        # The markers behind the last records of item-activity are applied too: nothing looks as if it were waiting.
        wait_for(lambda: not any(each["lag"] for each in (worker.health() or {})["partitions"]), 30)
        assert worker.stop() == 0


def test_a_recompute_of_users_counts_nothing_twice(deployment: Deployment, traffic: Traffic) -> None:
    """With table users and its changelog gone, all events are sent on again, cut otherwise, and change nothing."""
    worker = WorkerProcess(deployment)
    with running(worker):
        for _ in range(5):
            traffic.send(200)
        drained(deployment, worker)
        before = _rows(deployment, "item_activity")
        assert worker.stop() == 0
        recreate(deployment, "users-changelog")
        for partition in range(deployment.partitions):
            shutil.rmtree(deployment.data_dir / "tables" / worker.name / store_name("users", partition))
        worker.start()
        drained(deployment, worker)
        wait_for(lambda: worker.metric("aif_outcomes_total"), 20)
        assert worker.metric("aif_outcomes_total") >= len(before)
        assert _rows(deployment, "item_activity") == before and len(before) > 100
        verified(deployment)
        traffic.send(100)
        drained(deployment, worker)
        verified(deployment)


def test_what_is_no_activity_goes_to_the_dead_letters(deployment: Deployment, traffic: Traffic) -> None:
    """A record of item-activity that cannot be read stops nothing and is kept in its dead-letter topic."""
    worker = WorkerProcess(deployment)
    with running(worker):
        producer = KafkaProducer(bootstrap_servers=deployment.bootstrap_servers, acks="all")
        producer.send(deployment.topic("item-activity"), b"no record", entity_key(0), partition=0).get(20)
        producer.close()
        traffic.send(50)
        drained(deployment, worker)
        report = verified(deployment)
    assert report.missing_dead_letters == 0 and report.rows["item_activity"] > 0
