"""What those who are served notice of a roll-out: freshness beside a rebuild, latency across a flip, and its delays.

The worker, and the server where there is one, share the measured core, as on a small node; broker and clients have the
other core.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.freshness import WARM_UP_S, timed_updates
from bench.job import Job, free_port, launched
from bench.load import fill_items, item_updates
from bench.measures import Bench, wait_ready
from bench.rollout_clients import Answers, fill_users
from bench.rollout_log import DecisionLog
from bench.serving_http import Server
from domain.rollout import Terms
from producers.publish import promote, publish, rollback
from schemas.deployment import Deployment

__all__ = ["measure_flips", "measure_freshness_beside"]

_UPDATES_PER_S: Final = 1_000
_BEFORE_S: Final = 15.0
_MOST_S: Final = 240
#: Of the load across a flip: until the flip, until the roll-back, and after it.
_STEADY_S: Final = 10.0
#: How long a flip is looked at from the command that asks for it.
_FLIP_S: Final = 5.0
_RANKS_PER_S: Final = 100


@contextmanager
def _worker(bench: Bench, deployment: Deployment, first: str) -> Iterator[DecisionLog]:
    """A worker with the items of a filled source, and its first model live."""
    fill_items(deployment, bench.records, bench.records, distinct=True)
    bench.run("bench.lane_worker", Job.of(deployment, bench.records, fold="items", web_port=free_port()))
    port = free_port()
    job = Job.of(deployment, bench.records, version="", at_rest=str(deployment.data_dir / "at-rest"), web_port=port)
    with DecisionLog(deployment) as log, launched("bench.rollout_worker", job, bench.cores.measured) as worker:
        wait_ready(port, worker.alive)
        publish(deployment, first)
        log.wait_for("live", Path(first).name)
        yield log


def measure_freshness_beside(bench: Bench) -> dict[str, Any]:
    """Freshness of live updates before a rebuild and during it, in one run."""
    first, second = bench.artifact(1), bench.artifact(2)
    version, over = Path(second).name, threading.Event()
    with bench.deployment() as deployment, _worker(bench, deployment, first) as log:

        def push() -> None:
            try:
                time.sleep(WARM_UP_S + _BEFORE_S)
                publish(deployment, second)
                log.wait_for("cover", version, _MOST_S)
            finally:
                over.set()

        now_ms, most = int(time.time() * 1000), int(_UPDATES_PER_S * _MOST_S)
        messages = item_updates(deployment, most, bench.records, from_ms=now_ms)
        operator = threading.Thread(target=push)
        operator.start()
        due, latency_ms = timed_updates(
            deployment, "n2o_a", takewhile(lambda _: not over.is_set(), messages), _UPDATES_PER_S
        )
        operator.join()
        built, covered = (log.wait_for(each, version, 1).seen_s for each in ("build", "cover"))
    before = latency_ms[(due > due.min() + WARM_UP_S) & (due < built - 1)]
    during = latency_ms[(due >= built) & (due < covered)]
    return {
        "freshness_before_ms": _percentiles(before),
        "freshness_ms": _percentiles(during),
        "freshness_p99_ratio": round(_p99(during) / _p99(before), 2),
        "freshness_updates_per_s": _UPDATES_PER_S,
        "rebuild_beside_updates_items_per_s": round(bench.records / (covered - built)),
    }


def measure_flips(bench: Bench, rounds: int) -> dict[str, Any]:
    """Latency of rankings before and across flips, and what passes between a decision and the first answer by it."""
    found: list[dict[str, float]] = []
    before: list[npt.NDArray[np.float64]] = []
    across: list[npt.NDArray[np.float64]] = []
    with bench.deployment() as deployment, _worker(bench, deployment, bench.artifact(1)) as log:
        fill_users(deployment, bench.records)
        server = Server(deployment, bench.folder / "server.log", bench.cores.measured)
        try:
            for number in range(rounds):
                steady, flipped, delays = _round(deployment, server, log, bench, bench.artifact(2 + number))
                before.append(steady)
                across.append(flipped)
                found.append(delays)
        finally:
            server.stop()
    steady, flipped = np.concatenate(before), np.concatenate(across)
    return {
        "rank_before_ms": _percentiles(steady),
        "rank_flip_ms": _percentiles(flipped),
        "rank_p99_ratio": round(_p99(flipped) / _p99(steady), 2),
        "ranks_per_s": _RANKS_PER_S,
        **{name: round(median(each[name] for each in found), 1) for name in found[0]},
    }


def _round(
    deployment: Deployment, server: Server, log: DecisionLog, bench: Bench, artifact: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], dict[str, float]]:
    """One flip to a covered version and back: latencies before, across the flip, and the delays."""
    version, live = Path(artifact).name, Path(bench.artifact(1)).name
    publish(deployment, artifact, Terms(auto=False))
    log.wait_for("cover", version)
    time.sleep(2)  # servers load what is covered
    answers = Answers(bench.records)
    asked: dict[str, float] = {}

    def operate() -> None:
        time.sleep(_STEADY_S)
        asked["promote"] = 1000 * time.time()
        promote(deployment, version)
        time.sleep(_FLIP_S)
        asked["rollback"] = 1000 * time.time()
        rollback(deployment, version)

    operator = threading.Thread(target=operate)
    operator.start()
    outcome = answers.drive(server.port, _RANKS_PER_S, _STEADY_S + 2 * _FLIP_S)
    operator.join()
    due_ms = answers.started_ms + 1000 * np.arange(len(outcome.latency_ms)) / _RANKS_PER_S
    steady = outcome.latency_ms[(due_ms > answers.started_ms + 2000) & (due_ms < asked["promote"])]
    flipped = outcome.latency_ms[(due_ms >= asked["promote"]) & (due_ms < asked["promote"] + 1000 * _FLIP_S)]
    went_live, went_back = answers.first(version), answers.first(live, after_ms=asked["rollback"])
    delays = {
        "flip_ms": went_live - log.wait_for("live", version).appended_ms,
        "rollback_ms": went_back - asked["rollback"],
        "rollback_from_decision_ms": went_back - log.wait_for("rollback", version).appended_ms,
    }
    return steady, flipped, delays


def _p99(latency_ms: npt.NDArray[np.float64]) -> float:
    return float(np.percentile(latency_ms, 99))


def _percentiles(latency_ms: npt.NDArray[np.float64]) -> dict[str, float]:
    return {"p50": round(float(np.median(latency_ms)), 1), "p99": round(_p99(latency_ms), 1)}
