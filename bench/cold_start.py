"""How fast a server is there again: a state of many items and users made, then opened as a restart opens it.

The figures are of the state alone: what the feeder checks and maps and what a scoring process opens, without the
interpreter's start and without a broker. Files are in the page cache, as after the restart of a process.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from domain.n2o import N2OLayout
from domain.rollout import SLOTS
from schemas.codec import codec
from schemas.ids import entity_keys
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.tables.store import ITEMS, SlabKey, TablePartition

__all__ = ["measure_cold_start"]

_KEY: Final = SlabKey(SLOTS[0], 7)
_BATCH: Final = 8192
_GATHERED: Final = 4000


def measure_cold_start(items: int = 1_000_000, repetitions: int = 3) -> dict[str, float]:
    """Milliseconds until a state of so many items is open for writing and reading, and what it takes.

    `cold_start_ms` (medians of opening to write with every record checked, opening to read, and a first gather of
    4,000 rows), `gather_us` of 4,000 random rows, `fill_s`, `rss_mb` of this process's own and mapped pages,
    `bytes_per_item` on disk.
    """
    with tempfile.TemporaryDirectory(prefix="aif-cold-start-") as folder:
        path, layout = Path(folder), N2OLayout(64, 16, 64)
        started_s = time.perf_counter()
        _fill(path, layout, items)
        filled_s = time.perf_counter()
        starts = [_start(path, layout, items) for _ in range(repetitions)]
        return {
            "items": items,
            "fill_s": round(filled_s - started_s, 2),
            "cold_start_ms": round(median(ms for ms, _ in starts), 1),
            "gather_us": round(min(us for _, us in starts), 1),
            "rss_mb": round(_rss_mb(), 1),
            "bytes_per_item": round(_disk_bytes(path) / items, 1),
        }


def _fill(path: Path, layout: N2OLayout, items: int) -> None:
    folder = StateFolder(path)
    _, store = folder.open_or_create()
    writer, encode = StoreWriter(store), codec("item_row").encode
    prefix = codec("n2o_row").bytes_prefix(layout.stride)
    row: dict[str, Any] = {
        "event_time_ms": 1, "source_topic_id": 1, "source_offset": 1, "deleted": False, "original_id": None,
        "title": "an item with a title of a usual length", "category_id": 3, "price": 9.5, "published_ms": None,
        "embedding": None, "numeric": {}, "signature": None, "signature_version": "",
    }  # fmt: skip
    for start in range(0, items, _BATCH):
        ids = np.arange(start, min(start + _BATCH, items), dtype=np.int64)
        records = layout.empty(len(ids))
        records["item_id"], records["version"] = ids, _KEY.tag
        keys = entity_keys(ids)
        end = int(ids[-1]) + 1
        writer.apply(TablePartition(_KEY.slot, 0), keys, [prefix + each.tobytes() for each in records], end)
        rows: list[bytes | None] = [encode({**row, "item_id": each}) for each in ids.tolist()]
        writer.apply(TablePartition(ITEMS, 0), keys, rows, end)
    store.close()


def _start(path: Path, layout: N2OLayout, items: int) -> tuple[float, float]:
    """Milliseconds until everything is open and 4,000 rows were read, and microseconds of a later gather."""
    started_s = time.perf_counter()
    folder = StateFolder(path)
    _, store = folder.open_or_create()
    writer = StoreWriter(store)
    slab = store.slab(_KEY)
    assert slab is not None and len(writer.slabs[_KEY]) == items == len(store.items)
    out = np.empty((_GATHERED, layout.stride), dtype=np.uint8)
    rng = np.random.default_rng(0)
    assert slab.gather(rng.integers(0, items, _GATHERED), out).all()
    ready_ms = (time.perf_counter() - started_s) * 1000
    spent = []
    for _ in range(50):
        ids = rng.integers(0, items, _GATHERED)
        before = time.perf_counter()
        slab.gather(ids, out)
        spent.append(time.perf_counter() - before)
    store.close()
    return ready_ms, median(spent) * 1e6


def _rss_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _disk_bytes(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
