"""Fetching a request's rows from RocksDB, and nothing else: rows of 256 bytes, everything in its block cache.

Tuned: compacted to one level, uncompressed, a cache larger than the data, every block read once before, filters left
out of the last level, where every key is found. rocksdict's `get` of a list is RocksDB's MultiGet. A process of its own
(bench/job.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch

from bench.job import Job
from bench.serving_world import World
from bench.stopwatch import in_rounds, milliseconds
from schemas.errors import Corrupt
from schemas.ids import entity_keys

__all__: list[str] = []

_CHUNK: Final = 16_384
_REQUESTS: Final = 8
_CACHE_PER_ITEM: Final = 1_024


def main(job: Job) -> None:
    """Time `counts` of the job's options over the rows of its folder."""
    world = World.open(Path(job.folder))
    folder = world.folder / "rocksdb-rival"
    shutil.rmtree(folder, ignore_errors=True)
    store = Rdict(str(folder), _options(world.items))
    try:
        _fill(store, world)
        _check(store, world)
        figures = {
            str(count): _fetched(store, world, count, float(job.options["enough_s"])) for count in job.options["counts"]
        }
        job.report(ms=in_rounds(figures, int(job.options["rounds"])))
    finally:
        store.close()
        shutil.rmtree(folder, ignore_errors=True)


def _options(items: int) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(64 << 20)
    options.set_compression_type(DBCompressionType.none())
    options.set_optimize_filters_for_hits(True)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(max(64 << 20, _CACHE_PER_ITEM * items)))
    blocks.set_bloom_filter(10.0, False)
    options.set_block_based_table_factory(blocks)
    return options


def _fill(store: Rdict, world: World) -> None:
    raw = world.rows
    for start in range(0, world.items, _CHUNK):
        batch = WriteBatch(raw_mode=True)
        chosen = slice(start, start + _CHUNK)
        for key, row in zip(entity_keys(world.item_ids[chosen]), raw[chosen], strict=True):
            batch.put(key, row.tobytes())
        store.write(batch)
    store.flush()
    store.compact_range(None, None)
    for _ in store.items():  # every block into the cache
        pass


def _check(store: Rdict, world: World) -> None:
    rows = world.check_candidates
    found = store.get(entity_keys(world.item_ids[rows]))
    if b"".join(found) != world.rows[rows].tobytes():
        raise Corrupt("RocksDB gives other rows than were put in: the figure means nothing")


def _fetched(store: Rdict, world: World, count: int, enough_s: float) -> Callable[[], float]:
    requests = [entity_keys(world.item_ids[world.candidates(count, seed)]) for seed in range(_REQUESTS)]
    return lambda: milliseconds([partial(store.get, keys) for keys in requests], enough_s)


if __name__ == "__main__":
    main(Job.from_argv())
