"""What a rebuild cannot beat: the tower, the transaction and the table write of the same rows, and nothing else.

The items of a worker's tables are read and decoded before the clock runs. Partitions overlap as the lane's do: while
one's transaction is on its way, another one's rows are computed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from aiokafka import TopicPartition

from bench.job import Job, Stopwatch
from domain.activity_row import Snapshots
from domain.item_column_kernel import decoded_items
from domain.item_columns import ItemColumns
from schemas.deployment import Deployment
from schemas.stores_on_disk import store_name
from streams.changelog import ChangelogWriter
from streams.item_model import ItemModel
from streams.store import Store

_SLOT: Final = "n2o_c"


#: Keys of some items, and what the tower reads of them.
_Piece = tuple[list[bytes], ItemColumns]


def _pieces(store: Store, model: ItemModel, limit: int) -> list[_Piece]:
    """All rows of a store of table items, decoded."""
    found, after = [], b""
    while keys := store.entity_keys(after, limit):
        values = [value for value in store.get_many(keys) if value is not None]
        found.append((keys, decoded_items(values, model.row_format)))
        after = keys[-1]
    return found


class _Limit:
    """Tower and both writes."""

    def __init__(self, deployment: Deployment, model: ItemModel) -> None:
        self._deployment, self._model = deployment, model
        self._computing = asyncio.Lock()

    async def write(self, partition: int, pieces: list[_Piece], store: Store) -> None:
        """All rows of a partition, one piece after the other."""
        deployment = self._deployment
        source = TopicPartition(deployment.topic("item-updates"), partition)
        to = deployment.changelog(_SLOT), partition
        writer = ChangelogWriter(deployment.bootstrap_servers, f"{deployment.group}-limit", source)
        await writer.start()
        try:
            for keys, items in pieces:
                async with self._computing:
                    rows = await asyncio.to_thread(self._model.n2o_rows, keys, items, Snapshots.none(len(keys)))
                last = await writer.write({to: rows}, 0, lambda: None)
                await asyncio.to_thread(store.put_many, rows, last[to])
        finally:
            await writer.stop()


async def _measure(job: Job, model: ItemModel, items: list[list[_Piece]], folder: Path) -> dict[str, float]:
    limit = _Limit(job.deployment, model)
    stores = [Store(folder / store_name(_SLOT, partition)) for partition in range(job.partitions)]
    watch = Stopwatch()
    watch.start()
    await asyncio.gather(*(limit.write(each, pieces, stores[each]) for each, pieces in enumerate(items)))
    found = watch.read()
    for store in stores:
        store.close()
    return found


def main(job: Job) -> None:
    """Read the items, then measure."""
    artifact = Path(job.options["artifact"])
    model = ItemModel.load(artifact, artifact.name, job.deployment)
    tables, items = job.deployment.data_dir / "tables" / "worker-0", []
    for partition in range(job.partitions):
        store = Store(tables / store_name("items", partition))
        items.append(_pieces(store, model, job.options["rows_a_time"]))
        store.close()
    found = asyncio.run(_measure(job, model, items, Path(job.folder) / job.options["into"]))
    job.report(**found, records=sum(len(keys) for pieces in items for keys, _ in pieces))


if __name__ == "__main__":
    main(Job.from_argv())
