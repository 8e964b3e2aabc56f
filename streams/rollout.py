"""Which model the worker's item vectors are made with.

Every worker reads `model-versions` without a group, from the start: the log's order decides, so all arrive at the
same model, the newest one whose artifact passes its checks here. A refused one is logged and counted, and the model in
use stays. Building beside live traffic, coverage and flips belong to topic `rollout`.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from domain.activity_row import Snapshots
from domain.artifact import Manifest, check_artifact, check_fit, path_of
from models.tower import LoadedTower, n2o_records
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, BadRecord
from schemas.ids import entity_key
from schemas.records import ItemRow
from streams import metrics
from streams.changelog import translated
from streams.intake import dead_letter
from streams.store import Row

__all__ = ["ItemModel", "ModelFollower"]

logger = logging.getLogger(__name__)

#: source_topic_id and source_offset, neighbours in an N2O record.
_SOURCE: Final = struct.Struct("<qq")
_SNAPSHOT: Final = struct.Struct("<q")


class ItemModel:
    """The item side of one model version: makes N2O rows and recognises its own."""

    def __init__(self, manifest: Manifest, tower: LoadedTower) -> None:
        self.version = manifest.version
        self._tag = manifest.version_tag
        self._layout = manifest.dimensions.layout
        self._tower = tower
        self._tower_lock = threading.Lock()  # partitions fold in several executor threads
        self._prefix = codec("n2o_row").bytes_prefix(self._layout.stride)
        places: Any = self._layout.dtype.fields
        self._tag_at = len(self._prefix) + places["version"][1]
        self._source_at = len(self._prefix) + places["source_topic_id"][1]
        self._snapshot_at = len(self._prefix) + places["snapshot_ms"][1]
        self._tag_bytes = np.uint64(self._tag).astype("<u8").tobytes()

    @classmethod
    def load(cls, folder: Path, version: str, deployment: Deployment) -> ItemModel:
        """Open and check an artifact. Raises ArtifactError where it is damaged or not of this deployment."""
        manifest = check_artifact(lambda name: (folder / name).read_bytes(), version=version)
        check_fit(manifest, deployment)
        return cls(manifest, LoadedTower.open(folder, manifest))

    def n2o_rows(self, rows: list[ItemRow], activity: Snapshots) -> list[Row]:
        """Rows of a slot table for these items and what users did to them, each tagged with the version."""
        with self._tower_lock:
            records = n2o_records(rows, activity, self._tower, self._layout, self._tag)
        raw, stride = records.tobytes(), self._layout.stride
        return [
            (entity_key(row["item_id"]), self._prefix + raw[at : at + stride])
            for row, at in zip(rows, range(0, len(raw), stride), strict=True)
        ]

    def made(self, value: bytes, standing: Mapping[str, Any], snapshot_ms: int) -> bool:
        """Whether an encoded N2O row is of this version and layout, the item row's update, and this snapshot."""
        return (
            value.startswith(self._prefix)
            and value[self._tag_at : self._tag_at + 8] == self._tag_bytes
            and _SOURCE.unpack_from(value, self._source_at) == (standing["source_topic_id"], standing["source_offset"])
            and _SNAPSHOT.unpack_from(value, self._snapshot_at) == (snapshot_ms,)
        )


class ModelFollower:
    """Reads topic model-versions for the life of the worker and hands each usable model on."""

    def __init__(self, deployment: Deployment, use_model: Callable[[ItemModel], None]) -> None:
        self._deployment, self._use_model = deployment, use_model
        self._topic = deployment.topic("model-versions")
        self.model: ItemModel | None = None

    async def run(self) -> None:
        """Follow the topic until cancelled. Raises Unavailable where the broker is gone for too long."""
        with translated(f"reading {self._topic}"):
            await self._follow()

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._deployment.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            tp = TopicPartition(self._topic, 0)
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            end = (await consumer.end_offsets([tp]))[tp]
            history: list[Any] = []
            while await consumer.position(tp) < end:
                for records in (await consumer.getmany(tp, timeout_ms=200)).values():
                    history += records
            for record in reversed(history):
                if await self._consider(record):
                    break
            while True:
                for records in (await consumer.getmany(tp, timeout_ms=1000)).values():
                    for record in records:
                        await self._consider(record)
        finally:
            await consumer.stop()

    async def _consider(self, record: Any) -> bool:
        try:
            announced = codec("model_version").decode(record.value)
        except BadRecord as error:
            await self._refuse_record(record, error)
            return False
        version = announced["version"]
        if self.model is not None and self.model.version == version:
            return True
        try:
            model = await asyncio.to_thread(ItemModel.load, path_of(announced["uri"]), version, self._deployment)
        except ArtifactError as error:
            metrics.models_refused.inc()
            in_use = self.model.version if self.model else "none"
            logger.error("model %s refused, %s stays in use: %s", version, in_use, error)
            return False
        self.model = model
        logger.info("model %s in use: items of other versions are recomputed", version)
        self._use_model(model)
        return True

    async def _refuse_record(self, record: Any, error: BadRecord) -> None:
        logger.error("model-versions offset %d goes to the dead letters: %s", record.offset, error)
        key, value = dead_letter(record, self._topic, 0, error)
        producer = AIOKafkaProducer(bootstrap_servers=self._deployment.bootstrap_servers, acks="all")
        await producer.start()
        try:
            await producer.send_and_wait(self._deployment.dead_letters("model-versions"), value, key=key)
        finally:
            await producer.stop()
