"""The tables on this machine's disk against their changelogs, row by row at the offset that each store says it has."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import TopicPartition

from schemas.deployment import Deployment
from schemas.errors import Corrupt, Unavailable
from schemas.ids import CHUNK_KEY_BYTES, ENTITY_KEY_BYTES, WATERMARK_KEY, chunk_of, entity_id
from streams.changelog_rows import RowsAtOffset
from streams.inspection import Snapshot, StoreFolder, store_folders
from streams.log_reader import LogReader
from streams.verification_report import Report

__all__ = ["check_stores"]


async def check_stores(reader: LogReader, deployment: Deployment, topic_ids: Mapping[str, int]) -> Report:
    """Compare every store of the deployment under its data folder: of workers that run, that follow, and that are gone.

    `topic_ids` has those of the changelogs. Rows overwritten since are only compared where compaction has left their
    old value. Raises Unavailable where a store cannot be opened; a damaged one differs.
    """
    report = Report(stores={})
    for store in store_folders(deployment.data_dir):
        if (store.group, store.partitions) == (deployment.group, deployment.partitions):
            where = f"{store.table}-{store.partition} on disk ({store.worker.name})"
            try:
                await _check(reader, deployment, store, topic_ids, report, where)
            except Corrupt as error:
                report.differs(where, str(error))
            except Unavailable as error:
                raise Unavailable(f"{error}; --no-stores leaves local stores out") from error
    return report


async def _check(
    reader: LogReader,
    deployment: Deployment,
    store: StoreFolder,
    topic_ids: Mapping[str, int],
    report: Report,
    where: str,
) -> None:
    tp = TopicPartition(deployment.changelog(store.table), store.partition)
    with Snapshot(store) as snapshot:
        offset = snapshot.changelog_offset
        bounds = await reader.bounds(tp)
        if snapshot.changelog_id not in (None, topic_ids[tp.topic]):
            report.differs(where, f"it copies a topic {tp.topic} that was deleted since")
            return
        if bounds.written <= offset:
            report.differs(where, f"it holds offset {offset} of a changelog that ends at {bounds.written}")
            return
        expected = RowsAtOffset(offset)
        end = await reader.settled(tp, offset + 1)
        async for record in reader.records(tp, bounds.start, end):
            expected.take(record)
        # What compaction took during the reading has its successor in the log by now.
        async for record in reader.records(tp, end, (await reader.bounds(tp)).committed):
            expected.take(record)
        for key, what in expected.differences(snapshot.all_rows()):
            report.differs(f"{where} {_name(key)}", what)
        assert report.stores is not None
        report.stores[f"{store.worker.name}/{store.path.name}"] = expected.compared


def _name(key: bytes) -> str:
    if key == WATERMARK_KEY:
        return "watermark"
    if len(key) == CHUNK_KEY_BYTES:
        user, number = chunk_of(key)
        return f"{user} chunk {number}"
    return str(entity_id(key)) if len(key) == ENTITY_KEY_BYTES else key.hex()
