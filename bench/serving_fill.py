"""Fills a folder with a catalogue, users, a model and the workers' tables of all that (serving_world.py reads it).

Rows are made by the code that workers run: the artifact's tower, signatures, the fold of user events, their store. The
model has random weights, which cost what trained ones do. A process of its own (bench/job.py), so that the bench
itself never loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch

from bench.job import Job
from bench.serving_world import World, keep_user, user_id
from domain.activity_row import Snapshots
from domain.item_features import item_inputs
from domain.lsh import hyperplanes, signatures
from domain.sequence import by_time
from domain.user_row import FINGERPRINT
from domain.user_state import EventBatch, fold
from models.aif import AIF
from models.config import ModelConfig
from models.export import export
from models.tower import LoadedTower, n2o_records
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import WATERMARK_KEY, chunk_key, entity_key, entity_keys
from schemas.records import ACTION_CODES, ItemRow, UserHead
from schemas.stores_on_disk import WORKER_FILE, store_name
from streams.store import Row, Store

__all__ = ["fill", "untrained"]

_CHUNK: Final = 16_384
_CATEGORIES: Final = 300
_NEWEST_MS: Final = 1_700_000_000_000
_APART_MS: Final = 60_000
#: What the item of a catalogue has; each of the embeddings belongs to many items, which costs nothing else less.
_EMBEDDINGS: Final = 4_096


def main(job: Job) -> None:
    """Fill the folder of the job with `records` items."""
    lengths = [int(each) for each in job.options["behaviours"]]
    world = fill(Path(job.folder), job.records, lengths, int(job.options["users"]))
    job.report(version=world.version)


def untrained(deployment: Deployment, behaviours: int) -> AIF:
    """The default model for histories of so many behaviours, its weights random: the same in every process."""
    torch.manual_seed(1)
    return AIF(replace(ModelConfig.of(deployment), long_behaviours=behaviours)).eval()


def fill(folder: Path, items: int, lengths: Sequence[int], users: int) -> World:
    """Make everything below the folder; `users` have the second of the lengths, one has each other."""
    deployment = Deployment(partitions=1, data_dir=folder / "data")
    exported = export(
        untrained(deployment, max(lengths)), {"note": "random weights, for measurements"}, folder / "data" / "artifacts"
    )
    worker = folder / "data" / "tables" / "bench"
    worker.mkdir(parents=True)
    (worker / WORKER_FILE).write_text(json.dumps({"group": deployment.group, "partitions": deployment.partitions}))
    arrays = _fill_items(worker, items, LoadedTower.open(exported.folder, exported.manifest), deployment)
    ids = arrays["records"]["item_id"]
    _fill_users(folder, worker, ids, lengths, users)
    return World.write(
        folder, arrays, version=exported.manifest.version, at_ms=_NEWEST_MS, behaviours=list(lengths), users=users
    )


def _fill_items(worker: Path, items: int, tower: LoadedTower, deployment: Deployment) -> dict[str, npt.NDArray[Any]]:
    dims, tag = tower.manifest.dimensions, tower.manifest.version_tag
    random = np.random.default_rng(1)
    ids = np.sort(random.choice(2**48, items, replace=False))
    embeddings = random.standard_normal((_EMBEDDINGS, dims.embedding_dim)).astype("<f4")
    packed = signatures(embeddings, hyperplanes(deployment.signature_seed, dims.signature_bits, dims.embedding_dim))
    arrays: dict[str, npt.NDArray[Any]] = {
        "records": dims.layout.empty(items),
        "embedding": np.empty((items, dims.embedding_dim), dtype=np.float32),
        "category": np.empty(items, dtype=np.int64),
        "numeric": np.empty((items, dims.item_numeric), dtype=np.float32),
    }
    catalogue, n2o = (_Table(worker, name) for name in ("items", "n2o_a"))
    encode_item, encode_n2o = codec("item_row").encode, codec("n2o_row").encode
    for start in range(0, items, _CHUNK):
        chosen = slice(start, min(start + _CHUNK, items))
        rows = [_item(item, start + at, embeddings, packed, deployment) for at, item in enumerate(ids[chosen].tolist())]
        inputs = item_inputs(rows, dims)
        arrays["embedding"][chosen] = inputs.embedding
        arrays["category"][chosen], arrays["numeric"][chosen] = inputs.category, inputs.numeric
        records = n2o_records(rows, Snapshots.none(len(rows)), tower, dims.layout, tag)
        arrays["records"][chosen] = records
        keys = entity_keys(ids[chosen])
        catalogue.put(keys, [encode_item(row) for row in rows])
        raw = records.view(np.uint8).reshape(len(records), -1)
        n2o.put(keys, [encode_n2o({"record": row.tobytes()}) for row in raw])
    catalogue.close()
    n2o.close()
    return arrays


def _item(
    item: int, number: int, embeddings: npt.NDArray[np.float32], packed: npt.NDArray[np.uint8], deployment: Deployment
) -> ItemRow:
    which = number % len(embeddings)
    return {
        "item_id": item, "event_time_ms": _NEWEST_MS, "source_topic_id": 1, "source_offset": number, "deleted": False,
        "original_id": None, "title": f"item {item}", "category_id": item % _CATEGORIES, "price": float(item % 997),
        "published_ms": None, "embedding": embeddings[which].tobytes(), "numeric": {},
        "signature": packed[which].tobytes(), "signature_version": deployment.signature_version,
    }  # fmt: skip


def _fill_users(folder: Path, worker: Path, items: npt.NDArray[np.int64], lengths: Sequence[int], users: int) -> None:
    table, offset = _Table(worker, "users"), 0
    encode_chunk, decode = codec("user_chunk").encode, codec("user_head").decode
    for place, length in enumerate(lengths):
        for number in range(users if place == 1 else 1):
            user = user_id(length, number)
            folded = fold({}, _events(user, length, offset, items), 1)
            offset += length
            (head,) = folded.heads.values()
            chunks = {number: value for (_, number), value in folded.chunks.items() if value is not None}
            if number == 0:
                row = cast(UserHead, decode(head))
                keep_user(folder, length, head, by_time(row["behaviours"], row["counted"], chunks)[::-1])
            values = [encode_chunk({"fingerprint": FINGERPRINT, "behaviours": chunk}) for chunk in chunks.values()]
            table.put([entity_key(user), *(chunk_key(user, each) for each in chunks)], [head, *values])
    table.close()


def _events(user: int, count: int, offset: int, items: npt.NDArray[np.int64]) -> EventBatch:
    """A user's events, a minute apart, the last at the newest time: impressions, views, clicks, purchases."""
    random = np.random.default_rng(user)
    codes = np.array([ACTION_CODES[name] for name in ("impression", "view", "click", "purchase")], dtype=np.uint8)
    item = items[random.integers(0, len(items), count)]
    return EventBatch(
        offset=offset + np.arange(count),
        event_id=random.integers(-(2**62), 2**62, count),
        user_id=np.full(count, user),
        item_id=item,
        event_time_ms=_NEWEST_MS - _APART_MS * np.arange(count)[::-1],
        action=codes[np.searchsorted([0.5, 0.8, 0.98], random.random(count))],
        category_id=item % _CATEGORIES,
        has_category=np.ones(count, dtype=np.bool_),
        value=np.full(count, np.nan),
    )


class _Table:
    """A worker's table of partition 0, and the watermark that ends it."""

    def __init__(self, worker: Path, name: str) -> None:
        self._store = Store(worker / store_name(name, 0))
        self._offset = -1

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Write rows, as of the changelog records that would hold them."""
        self._offset += len(keys)
        rows: list[Row] = list(zip(keys, values, strict=True))
        self._store.put_many(rows, self._offset)

    def close(self) -> None:
        """Write the watermark and give the folder back."""
        mark = {
            "source_topic_id": 1, "next_source_offset": self._offset + 1, "max_event_time_ms": _NEWEST_MS,
            "oldest_append_time_ms": 0, "writer_epoch": 0, "wall_time_ms": _NEWEST_MS,
        }  # fmt: skip
        self.put([WATERMARK_KEY], [codec("watermark").encode(mark)])
        self._store.close()


if __name__ == "__main__":
    main(Job.from_argv())
