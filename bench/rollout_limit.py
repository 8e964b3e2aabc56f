"""What a rebuild cannot beat: the tower, the transaction and the table write of the same rows, and nothing else.

The items of a worker's tables are read and decoded before the clock runs. Partitions overlap as the lane's do: while
one's transaction is on its way, another one's rows are computed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from aiokafka import TopicPartition

from bench.job import Job, Stopwatch
from domain.activity_row import Snapshots
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.records import ItemRow
from schemas.stores_on_disk import store_name
from streams.changelog import ChangelogWriter
from streams.item_model import ItemModel
from streams.store import Store

_SLOT: Final = "n2o_c"


def _items(store: Store) -> list[ItemRow]:
    """All rows of a store of table items."""
    decode: Any = codec("item_row").decode
    found, after = [], b""
    while keys := store.entity_keys(after, 50_000):
        found += [decode(value) for value in store.get_many(keys)]
        after = keys[-1]
    return found


class _Limit:
    """The two writes of one run."""

    def __init__(self, deployment: Deployment, model: ItemModel, rows_a_time: int) -> None:
        self._deployment, self._model, self._rows_a_time = deployment, model, rows_a_time
        self._computing = asyncio.Lock()

    async def write(self, partition: int, items: list[ItemRow], store: Store) -> None:
        """All rows of a partition, one piece after the other."""
        deployment = self._deployment
        source = TopicPartition(deployment.topic("item-updates"), partition)
        to = deployment.changelog(_SLOT), partition
        writer = ChangelogWriter(deployment.bootstrap_servers, f"{deployment.group}-limit", source)
        await writer.start()
        try:
            for at in range(0, len(items), self._rows_a_time):
                piece = items[at : at + self._rows_a_time]
                async with self._computing:
                    rows = await asyncio.to_thread(self._model.n2o_rows, piece, Snapshots.none(len(piece)))
                last = await writer.write({to: rows}, 0, lambda: None)
                await asyncio.to_thread(store.put_many, rows, last[to])
        finally:
            await writer.stop()


async def _measure(job: Job, model: ItemModel, items: list[list[ItemRow]], folder: Path) -> dict[str, float]:
    limit = _Limit(job.deployment, model, job.options["rows_a_time"])
    stores = [Store(folder / store_name(_SLOT, partition)) for partition in range(job.partitions)]
    watch = Stopwatch()
    watch.start()
    await asyncio.gather(*(limit.write(each, rows, stores[each]) for each, rows in enumerate(items)))
    found = watch.read()
    for store in stores:
        store.close()
    return found


def main(job: Job) -> None:
    """Read the items, then measure."""
    tables = job.deployment.data_dir / "tables" / "worker-0"
    items = []
    for partition in range(job.partitions):
        store = Store(tables / store_name("items", partition))
        items.append(_items(store))
        store.close()
    artifact = Path(job.options["artifact"])
    model = ItemModel.load(artifact, artifact.name, job.deployment)
    found = asyncio.run(_measure(job, model, items, Path(job.folder) / job.options["into"]))
    job.report(**found, records=sum(map(len, items)))


if __name__ == "__main__":
    main(Job.from_argv())
