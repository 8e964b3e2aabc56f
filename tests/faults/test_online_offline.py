"""What is served online and what training reads offline are the same numbers, crashes or not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fleet import Traffic, WorkerProcess, drained, running
from kafka import KafkaConsumer, TopicPartition

from domain.feature_values import feature_values
from domain.features import FEATURES
from domain.validation import check_user_event
from models.point_in_time import export_features
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadRecord
from schemas.ids import entity_id
from streams.inspection import Snapshot, newest_stores

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

COLUMNS = {
    "event_id": pa.int64(), "user_id": pa.int64(), "item_id": pa.int64(), "event_time_ms": pa.int64(),
    "action": pa.string(), "category_id": pa.int64(), "value": pa.float64(),
}  # fmt: skip


@pytest.mark.parametrize("step", ["folded", "committed"])
def test_rows_after_a_crash_are_those_of_the_offline_export(
    deployment: Deployment, traffic: Traffic, tmp_path: Path, step: str
) -> None:
    """kill -9 in the middle of a batch, restart: every user's features equal `aif features export` at that position."""
    worker = WorkerProcess(deployment)
    online: list[list[dict[str, Any]]] = [[] for _ in range(deployment.partitions)]
    with running():
        for batches in (3, 4):
            worker.start("--failpoint", f"kill:{step}:{batches}")
            while worker.process.poll() is None:
                traffic.send(40)
            assert worker.process.returncode == -signal.SIGKILL
            worker.start()
            drained(deployment, worker)
            for partition, labels in enumerate(online):
                labels += _labels_of_stores(deployment, partition)
            worker.kill()
    for partition, labels in enumerate(online):
        assert len({label["position"] for label in labels}) == 2 and len(labels) > 50
        folder = tmp_path / f"offline-{partition}"
        assert _exported(folder, [event for _, event in _log(deployment, partition)], labels) == labels


def _labels_of_stores(deployment: Deployment, partition: int) -> list[dict[str, Any]]:
    """Every user of a partition as the worker's table has it now, with features an hour after the newest event."""
    with Snapshot(newest_stores(deployment, "users")[partition]) as snapshot:
        mark: Any = snapshot.watermark
        rows = list(snapshot.rows())
    position = sum(offset < mark["next_source_offset"] for offset, _ in _log(deployment, partition))
    at_ms = mark["max_event_time_ms"] + 3_600_000
    heads: list[Any] = [codec("user_head").decode(value) for _, value in rows]
    found = feature_values(heads, np.full(len(heads), at_ms))
    values = {feature.name: found[feature.name].items() for feature in FEATURES}
    return [
        {"user_id": entity_id(key), "position": position, "at_ms": at_ms}
        | {name: column[place] for name, column in values.items()}
        for place, (key, _) in enumerate(rows)
    ]


def _log(deployment: Deployment, partition: int) -> list[tuple[int, Any]]:
    """Offset and event of every valid record of a partition of user-events."""
    tp = TopicPartition(deployment.topic("user-events"), partition)
    with KafkaConsumer(bootstrap_servers=deployment.bootstrap_servers, group_id=None) as consumer:
        consumer.assign([tp])
        consumer.seek_to_beginning(tp)
        end, records = consumer.end_offsets([tp])[tp], []
        while consumer.position(tp) < end:
            records += consumer.poll(timeout_ms=200).get(tp, [])
    valid = []
    for record in records:
        try:
            event: Any = codec("user_event").decode(record.value)
            check_user_event(event, record.key, record.timestamp, deployment)
        except BadRecord:
            continue
        valid.append((record.offset, event))
    return valid


def _exported(folder: Path, events: list[Any], labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    folder.mkdir()
    columns = {name: pa.array([event[name] for event in events], type=kind) for name, kind in COLUMNS.items()}
    pq.write_table(pa.table(columns), folder / "events.parquet")
    names = ("user_id", "position", "at_ms")
    asked = pa.table({name: pa.array([label[name] for label in labels], type=pa.int64()) for name in names})
    pq.write_table(asked, folder / "labels.parquet")
    export_features(folder / "events.parquet", folder / "labels.parquet", folder, lambda *_: None)
    exported: list[dict[str, Any]] = pq.read_table(folder / "features.parquet").to_pylist()
    return exported
