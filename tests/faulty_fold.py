"""What makes a worker's user fold fail on purpose; called in the worker's process before it starts."""

from __future__ import annotations

from typing import Any

from schemas.deployment import Deployment
from streams import partition, topology

#: Records of a fetch, each of which becomes a batch of its own.
BATCH = 300


def third_batch_raises() -> None:
    """Batches of one fetch of BATCH records each; the fold of the third one of a partition raises.

    The first offset of every batch is appended to `<data_dir>/batches`.
    """
    partition._BATCH_RECORDS = 1  # type: ignore[misc]
    build = topology.build_worker

    def build_faulty(deployment: Deployment, settings: topology.WorkerSettings) -> topology.Worker:
        worker = build(deployment, settings)
        worker.app.conf.broker_max_poll_records = BATCH
        users: Any = worker.lanes[1].fold
        fold, begun = users.fold, []

        def raising(number: int, topic_id: int, records: Any, tables: Any) -> Any:
            begun.append(records[0].offset)
            (deployment.data_dir / "batches").write_text(" ".join(map(str, begun)))
            if len(begun) == 3:
                raise ZeroDivisionError("planted in the fold")
            return fold(number, topic_id, records, tables)

        users.fold = raising
        return worker

    topology.build_worker = build_faulty
