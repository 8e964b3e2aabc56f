"""The run of `aif bench rollout`: what a roll-out costs, and what it costs those who are served meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.job import Job, free_port, launched, pinned
from bench.load import fill_items
from bench.machine import Cores, commit, machine, versions
from bench.measures import Bench, Figure, lane_with_tower, wait_ready
from bench.rollout_live import measure_flips, measure_freshness_beside
from bench.rollout_log import DecisionLog
from bench.streams import own_broker
from producers.publish import publish
from schemas.deployment import Deployment
from schemas.errors import BadInput, Corrupt

__all__ = ["MEASURES", "measure_rollout"]

_WORKER: Final = "bench.rollout_worker"
#: As the lane's pieces are where nothing else happens.
_ROWS_A_TIME: Final = 16_000
_POLL_S: Final = 0.02
Progress = Callable[[str], None]


def measure_rollout(keys: list[str], items: int, repetitions: int, progress: Progress) -> dict[str, Any]:
    """Measure the keys (none: all) and return what `aif bench rollout --json` prints.

    Raises BadInput for a key that is none of MEASURES, Unavailable or Corrupt where a measurement fails.
    """
    if unknown := sorted(set(keys) - set(MEASURES)):
        raise BadInput(f"{', '.join(unknown)} cannot be measured; choose from {', '.join(MEASURES)}")
    cores = Cores.available()
    surroundings, found = machine(cores), dict[str, Any]()
    with pinned(cores.rest), own_broker() as (servers, folder):
        bench = Bench(servers, folder, cores, items, items)
        for key in keys or MEASURES:
            progress(key)
            found |= MEASURES[key](bench, repetitions)
    return {
        **found, "items": items, "repetitions": repetitions, "machine": surroundings, "commit": commit(),
        "versions": versions(),
    }  # fmt: skip


def _rebuild(bench: Bench, repetitions: int) -> dict[str, Any]:
    """One build after the other of a new version over the same items, each beside its limit; medians."""
    runs: list[tuple[Figure, Figure]] = []
    with bench.deployment() as deployment:
        fill_items(deployment, bench.records, bench.records, distinct=True)
        bench.run("bench.lane_worker", Job.of(deployment, bench.records, fold="items", web_port=free_port()))
        for seed in range(1, 1 + repetitions):
            artifact = bench.artifact(seed)
            limit = Job.of(deployment, bench.records, artifact=artifact, rows_a_time=_ROWS_A_TIME, into=f"limit-{seed}")
            runs.append((bench.run("bench.rollout_limit", limit), _build(bench, deployment, artifact)))
    if any(found["records"] != bench.records for pair in runs for found in pair):
        raise Corrupt(f"{bench.records} rows were to be made: {runs}")
    rate = [[found["records"] / found["seconds"] for found in pair] for pair in runs]
    return {
        "rebuild_items_per_s": round(median(built for _, built in rate)),
        "tower_and_write_items_per_s": round(median(limit for limit, _ in rate)),
        "rebuild / tower and write": round(median(built / limit for limit, built in rate), 2),
        "rebuild_cpu_us_per_item": round(1e6 * median(built["cpu_s"] / built["records"] for _, built in runs), 1),
        "tower_and_write_cpu_us_per_item": round(1e6 * median(one["cpu_s"] / one["records"] for one, _ in runs), 1),
        "rebuild_peak_rss_mb": round(max(built["peak_rss_mb"] for _, built in runs)),
    }


def _build(bench: Bench, deployment: Deployment, artifact: str) -> dict[str, Any]:
    """One build by a worker that was started for it and finds the source at rest."""
    port, at_rest = free_port(), deployment.data_dir / "at-rest"
    at_rest.unlink(missing_ok=True)
    job = Job.of(deployment, bench.records, version=Path(artifact).name, at_rest=str(at_rest), web_port=port)
    with DecisionLog(deployment) as log, launched(_WORKER, job, bench.cores.measured) as worker:
        wait_ready(port, worker.alive)
        while not at_rest.exists():
            if not worker.alive():
                return worker.result(bench.within_s)
            time.sleep(_POLL_S)
        publish(deployment, artifact)
        found = worker.result(bench.within_s)
        log.wait_for("live", Path(artifact).name)
        return found


def _updates(bench: Bench, repetitions: int) -> dict[str, Any]:
    """Live updates with the vectors of one, two and three versions, in turn."""
    found: dict[int, list[float]] = {slots: [] for slots in (1, 2, 3)}
    for _ in range(repetitions):
        for slots, rates in found.items():
            rates.append(lane_with_tower(bench, bench.records // 2, distinct=True, slots=slots)["value"])
    return {"updates_per_s_by_fed_slots": {str(slots): round(median(rates)) for slots, rates in found.items()}}


#: Name -> what measures it: (bench, repetitions) -> figures.
MEASURES: Final[dict[str, Callable[[Bench, int], dict[str, Any]]]] = {
    "rebuild": _rebuild,
    "updates": _updates,
    "freshness": lambda bench, _: measure_freshness_beside(bench),
    "flip": measure_flips,
}
