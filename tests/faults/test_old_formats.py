"""Tables that an older build has left: refused in one sentence, and made anew as the operations guide says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiokafka import TopicPartition
from fleet import Traffic, WorkerProcess, drained, recreate, running, verified

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import WATERMARK_KEY
from schemas.stores_on_disk import WORKER_FILE
from streams.changelog import ChangelogWriter
from streams.store import Store

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


def test_tables_of_an_older_build(deployment: Deployment, traffic: Traffic) -> None:
    """A folder of another table format and user rows of another layout are each refused in one sentence that names
    them; another folder is filled from the changelogs, and tables made anew from their topic equal it.
    """
    worker, elsewhere = WorkerProcess(deployment), WorkerProcess(deployment, "elsewhere")
    folder = deployment.data_dir / "tables" / worker.name
    with running(worker):
        traffic.send(300)
        drained(deployment, worker)
        assert worker.stop() == 0
        description = json.loads((folder / WORKER_FILE).read_text())
        (folder / WORKER_FILE).write_text(json.dumps(description | {"table_format": 0}))
        worker.start()
        assert worker.process.wait(60) == 2
        assert f"the tables in {folder} are of table_format 0, this worker is of" in worker.log_tail(1)
        with running(elsewhere):
            drained(deployment, elsewhere)
            assert elsewhere.stop() == 0
            (folder / WORKER_FILE).write_text(json.dumps(description))
            verified(deployment)
            asyncio.run(_lay_out_users_otherwise(deployment, elsewhere))
            traffic.send(300)
            elsewhere.start()
            assert elsewhere.process.wait(60) == 70
            assert "its bytes are laid out otherwise; rebuild table users from its log" in elsewhere.log_tail(1)
            recreate(deployment, "user-events")
            elsewhere.start("--reset-recreated")
            traffic.send(100)
            drained(deployment, elsewhere)
            assert verified(deployment).rows["users"] > 50


async def _lay_out_users_otherwise(deployment: Deployment, worker: WorkerProcess) -> None:
    """What an older build would have left: every user row of partition 0 with the fingerprint of another layout."""
    source = TopicPartition(deployment.topic("user-events"), 0)
    store = Store(deployment.data_dir / "tables" / worker.name / "users-0.db")
    head, rows = codec("user_head"), []
    keys = store.entity_keys(b"", 10_000)
    for key, value in zip(keys, store.get_many(keys), strict=True):
        decoded: dict[str, Any] = head.decode(value)
        rows.append((key, head.encode(decoded | {"fingerprint": decoded["fingerprint"] ^ 1})))
    mark = store.watermark
    assert mark is not None and rows
    rows.append((WATERMARK_KEY, codec("watermark").encode(mark)))
    writer = ChangelogWriter(deployment.bootstrap_servers, deployment.group, source)
    await writer.start()
    to = deployment.changelog("users"), 0
    last = await writer.write({to: rows}, mark["next_source_offset"], lambda: None)
    await writer.stop()
    store.put_many(rows, last[to])
    store.close()
