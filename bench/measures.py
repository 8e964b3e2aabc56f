"""One function per figure: prepare topics, run the measured process, check what it did, clean up."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka.admin import AdminClient, NewTopic

from bench.freshness import measure_freshness
from bench.job import Job, free_port, launched, run
from bench.load import check_counts, fill_items, fill_plain, item_updates, prepare, produce, read_changelog, remove
from bench.machine import Cores
from bench.plain_fold import new_row
from domain.partitioner import partitions_of
from domain.rollout import SLOTS
from schemas.deployment import Deployment
from schemas.errors import Corrupt, Unavailable
from schemas.ids import entity_keys

__all__ = ["MEASURES", "Bench", "Figure", "lane_with_tower", "wait_ready"]

#: What a measurement found: figures by name; "value" is the one that the key of the run stands for.
Figure = dict[str, float]
_LANE: Final = "bench.lane_worker"
_STOCK: Final = "bench.rivals.stock_faust"
_MILLION: Final = 1_000_000


@dataclass
class Bench:
    """The surroundings of all measurements of a run."""

    bootstrap_servers: str
    folder: Path
    cores: Cores
    #: Records that fast candidates get; slow ones get half.
    records: int
    #: Entities that keys are drawn from.
    keys: int
    #: Seconds that a single process may take.
    within_s: float = 600.0
    _runs: int = 0
    _artifacts: dict[int, str] = field(default_factory=dict)

    @contextmanager
    def deployment(self) -> Iterator[Deployment]:
        """Topics and a folder that nobody has used, removed at the end."""
        self._runs += 1
        name = f"bench{self._runs}-"
        deployment = Deployment(
            bootstrap_servers=self.bootstrap_servers, prefix=name, data_dir=self.folder / name.rstrip("-")
        )
        prepare(deployment)
        try:
            yield deployment
        finally:
            remove(deployment)
            shutil.rmtree(deployment.data_dir)

    def run(self, module: str, job: Job) -> dict[str, Any]:
        """Run a measured process to its end."""
        return run(module, job, self.cores.measured, self.within_s)

    def artifact(self, seed: int = 1) -> str:
        """The folder of a model with random weights, made once for each seed."""
        if seed not in self._artifacts:
            deployment = Deployment(bootstrap_servers=self.bootstrap_servers, data_dir=self.folder)
            made = self.run("bench.untrained_model", Job.of(deployment, 0, seed=seed))
            self._artifacts[seed] = made["artifact"]
        return self._artifacts[seed]


def _rate(found: dict[str, Any]) -> Figure:
    figure = {
        "value": found["records"] / found["seconds"],
        "records": found["records"],
        "cpu_us_per_record": 1e6 * found["cpu_s"] / found["records"],
        "cpu_share": found["cpu_s"] / found["seconds"],
        "peak_rss_mb": found["peak_rss_mb"],
    }
    if "rows" in found:
        figure["records_per_row"] = found["records"] / found["rows"]
        figure["records_per_batch"] = found["records"] / found["batches"]
        figure["loop_block_ms"] = found["loop_block_ms"]
    return figure


def _lane(bench: Bench, fold: str) -> Figure:
    with bench.deployment() as deployment:
        fill_plain(deployment, bench.records, bench.keys)
        found = bench.run(_LANE, Job.of(deployment, bench.records, fold=fold, web_port=free_port()))
        check_counts(read_changelog(deployment, deployment.changelog("items")), bench.records, fold)
        return _rate(found)


def lane_with_tower(bench: Bench, records: int, *, distinct: bool = False, slots: int = 1) -> Figure:
    """Item updates with vectors, of as many versions as `slots`."""
    artifacts = [bench.artifact(seed) for seed in range(1, 1 + slots)]
    with bench.deployment() as deployment:
        fill_items(deployment, records, bench.keys, distinct=distinct)
        job = Job.of(deployment, records, fold="items", artifacts=artifacts, web_port=free_port())
        found = bench.run(_LANE, job)
        tables = ("items", SLOTS[slots - 1])
        items, vectors = (set(read_changelog(deployment, deployment.changelog(table)).newest) for table in tables)
        if items != vectors or (distinct and len(items) != records):
            raise Corrupt(f"{len(items)} items, {len(vectors)} vectors of {records} updates: the figure means nothing")
        return _rate(found)


def _rival(bench: Bench, module: str, records: int, **options: Any) -> Figure:
    with bench.deployment() as deployment:
        fill_plain(deployment, records, bench.keys)
        found = bench.run(module, Job.of(deployment, records, **options))
        changelog = read_changelog(deployment, found["changelog"])
        check_counts(changelog, records, module)
        return {**_rate(found), "records_per_row": records / changelog.records}


def _recovery(bench: Bench) -> Figure:
    rows = _MILLION
    with bench.deployment() as deployment:
        fill_plain(deployment, rows, rows, distinct=True)
        bench.run(_LANE, Job.of(deployment, rows, fold="plain", web_port=free_port()))
        shutil.rmtree(deployment.data_dir / "tables")
        found = bench.run(_LANE, Job.of(deployment, rows, fold="plain", restore=True, web_port=free_port()))
        if found["records"] < rows:
            raise Corrupt(f"{rows} rows were to be restored, {found['records']} were: the figure means nothing")
        return {**_rate(found), "value": rows / found["seconds"]}


def _stock_recovery(bench: Bench) -> Figure:
    rows = bench.records // 2
    with bench.deployment() as deployment:
        job = Job.of(deployment, rows, restore=True)
        entities = np.arange(rows)
        partitions = partitions_of(entities, deployment.partitions).tolist()
        messages = zip(partitions, entity_keys(entities), (new_row(1, 0) for _ in range(rows)), strict=True)
        topic = f"{deployment.prefix}stock-rows-changelog"
        _compacted_topic(deployment, topic)
        produce(deployment, topic, messages)
        found = bench.run(_STOCK, job)
        if found["records"] != rows:
            raise Corrupt(f"{rows} rows were to be recovered, {found['records']} were: the figure means nothing")
        return _rate(found)


def _freshness(bench: Bench, per_s: int = 5_000, seconds: int = 15) -> Figure:
    artifacts, records = [bench.artifact()], per_s * seconds
    with bench.deployment() as deployment:
        messages = iter(list(item_updates(deployment, records, bench.keys)))
        port = free_port()
        job = Job.of(deployment, records, fold="items", artifacts=artifacts, web_port=port)
        with launched(_LANE, job, bench.cores.measured) as worker:
            wait_ready(port, worker.alive)
            found_ms = measure_freshness(deployment, "n2o_a", messages, per_s)
            found = worker.result(bench.within_s)
        p50, p99 = np.percentile(found_ms, [50, 99])
        return {
            "value": float(p99), "p50": float(p50), "p99": float(p99), "updates_per_s": per_s,
            "records_per_batch": found["records"] / found["batches"], "loop_block_ms": found["loop_block_ms"],
            "cpu_share": found["cpu_s"] / found["seconds"],
        }  # fmt: skip


def wait_ready(port: int, alive: Callable[[], bool], within_s: float = 60.0) -> None:
    """Return when the worker on a port has its partitions. Raises Unavailable."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and alive():
        # Not listening yet, or 503 until its partitions are restored.
        with (
            suppress(urllib.error.URLError, TimeoutError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer,
        ):
            if json.load(answer)["partitions"]:
                return
        time.sleep(0.1)
    raise Unavailable(f"the worker was not ready after {within_s:.0f} s")


def _compacted_topic(deployment: Deployment, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": deployment.bootstrap_servers})
    new = NewTopic(topic, deployment.partitions, 1, config={"cleanup.policy": "compact"})
    for future in admin.create_topics([new]).values():
        future.result(timeout=30)


#: Key of the output -> how it is measured.
MEASURES: Final[dict[str, Callable[[Bench], Figure]]] = {
    "item_updates_per_s": lambda bench: _lane(bench, "plain"),
    "item_updates_row_per_record_per_s": lambda bench: _lane(bench, "plain-per-record"),
    "item_updates_with_tower_per_s": lambda bench: lane_with_tower(bench, bench.records // 2),
    "raw_per_s": lambda bench: _rival(bench, "bench.rivals.raw", bench.records),
    "quix_per_s": lambda bench: _rival(bench, "bench.rivals.quix", bench.records),
    "quix_exactly_once_per_s": lambda bench: _rival(bench, "bench.rivals.quix", bench.records, exactly_once=True),
    "stock_faust_per_s": lambda bench: _rival(bench, _STOCK, bench.records // 2),
    "recovery_rows_per_s": _recovery,
    "stock_recovery_rows_per_s": _stock_recovery,
    "freshness_ms": _freshness,
    "peak_rss_mb": lambda bench: {
        **(million := lane_with_tower(bench, _MILLION, distinct=True)),
        "value": million["peak_rss_mb"],
    },
}
