"""Bytes of user rows and what batches write, of a made log or of a real one."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from domain.partitioner import partitions_of
from domain.user_row import FINGERPRINT
from domain.user_state import EventBatch, Folded, fold
from producers.datasets import open_dataset
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import chunk_key, entity_key, entity_keys
from schemas.records import ACTIONS, UserEvent
from streams.store import Row, Store

__all__ = ["WARM", "Users", "bytes_written", "dataset_batches"]

#: Share of a log that fills rows before anything is measured.
WARM: Final = 0.5


class Users:
    """Rows of all users in memory."""

    def __init__(self) -> None:
        self.heads: dict[int, bytes] = {}
        self.chunks: dict[tuple[int, int], bytes] = {}
        self.clock_ms = -(2**61)

    def fold(self, batch: EventBatch) -> tuple[Folded, float]:
        """What a batch did, and the CPU seconds that the fold alone took: it is one thread and never waits."""
        started = time.thread_time()
        folded = fold(self.heads, batch, 1, read_chunks=self._open, clock_ms=self.clock_ms)
        spent = time.thread_time() - started
        self.heads |= folded.heads
        self.clock_ms = folded.clock_ms
        for place, chunk in folded.chunks.items():
            if chunk is None:
                del self.chunks[place]
            else:
                self.chunks[place] = chunk
        return folded, spent

    def _open(self, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        return {place: self.chunks[place] for place in wanted}


def dataset_batches(name: str, path: Path | None, batch: int) -> list[tuple[int, EventBatch]]:
    """The user events of a data set in the order of time, as (partition, batch) of so many records, as workers get."""
    partitions = Deployment().partitions
    held: list[list[UserEvent]] = [[] for _ in range(partitions)]
    begun = [0] * partitions
    batches = []
    for kind, record in open_dataset(name, path).entries():
        if kind != "user":
            continue
        event = cast("UserEvent", record)
        partition = int(partitions_of(np.array([event["user_id"]]), partitions)[0])
        held[partition].append(event)
        if len(held[partition]) == batch:
            offsets = range(begun[partition], begun[partition] + batch)
            batches.append((partition, EventBatch.of(offsets, held[partition])))
            begun[partition] += batch
            held[partition] = []
    return batches


def bytes_written(batches: Sequence[tuple[int, EventBatch]]) -> dict[str, Any]:
    """Sizes of rows, and what (partition, batch) of a log write, over its second half.

    Changelog bytes per event are quantiles over batches; of each event, over events, each with its share of what its
    user's rows cost in the batch.
    """
    states = {partition: Users() for partition, _ in batches}
    per_event: list[float] = []
    each_event: list[npt.NDArray[np.float64]] = []
    changelog = written = source = events = 0
    with tempfile.TemporaryDirectory(prefix="aif-bench-") as folder, ExitStack() as open_stores:
        stores = {partition: Store(Path(folder) / f"users-{partition}.db") for partition in states}
        for store in stores.values():
            open_stores.callback(store.close)
        for number, (partition, batch) in enumerate(batches):
            rows = list(_rows(states[partition].fold(batch)[0]))
            before = _written()
            stores[partition].put_many(rows, number)
            if number >= WARM * len(batches):
                written += _written() - before
                size = sum(len(key) + len(value or b"") for key, value in rows)
                changelog += size
                per_event.append(size / len(batch))
                each_event.append(_shares(rows, batch))
                source += sum(map(len, _encoded(batch)))
                events += len(batch)
        before = _written()
        open_stores.close()
        written += _written() - before
    sizes = np.array([len(head) for state in states.values() for head in state.heads.values()])
    return {
        "bytes_per_user": {
            "typical": int(np.median(sizes)), "p99": int(np.percentile(sizes, 99)), "max": int(max(sizes)),
        },
        "changelog_bytes_per_event": {
            "p50": round(float(np.median(per_event))), "p99": round(float(np.percentile(per_event, 99))),
        },
        "changelog_bytes_of_each_event": {
            f"p{share}": round(float(np.percentile(np.concatenate(each_event), share))) for share in (50, 99)
        },
        "write_amplification": {
            "event_bytes": round(source / events),
            "changelog_bytes_per_event": round(changelog / events),
            "rocksdb_bytes_per_event": round(written / events),
            "total": round((changelog + written) / source, 1),
        },
    }  # fmt: skip


def _rows(folded: Folded) -> Iterator[Row]:
    """What a worker would write."""
    for user, head in folded.heads.items():
        yield entity_key(user), head
    for (user, place), chunk in folded.chunks.items():
        record = {"fingerprint": FINGERPRINT, "behaviours": chunk}
        yield chunk_key(user, place), None if chunk is None else codec("user_chunk").encode(record)


def _shares(rows: Sequence[Row], batch: EventBatch) -> npt.NDArray[np.float64]:
    """Changelog bytes of each event of a batch: those of its user's rows, divided among the user's events."""
    cost: Counter[bytes] = Counter()
    for key, value in rows:
        cost[key[:8]] += len(key) + len(value or b"")
    users, counts = np.unique(batch.user_id, return_counts=True)
    costs = np.array([cost[key] for key in entity_keys(users)])
    return np.repeat(costs / counts, counts)


def _encoded(batch: EventBatch) -> list[bytes]:
    encode = codec("user_event").encode
    columns = [getattr(batch, name).tolist() for name in ("event_id", "user_id", "item_id", "event_time_ms", "action")]
    return [
        encode({"event_id": event, "user_id": user, "item_id": item, "event_time_ms": at, "action": ACTIONS[action]})
        for event, user, item, at, action in zip(*columns, strict=True)
    ]


def _written() -> int:
    """Bytes that this process has handed to files so far; RocksDB's background threads included."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])
