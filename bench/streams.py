"""The run: its own broker, every measurement several times in turn, medians, ratios, one JSON object."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.job import pinned
from bench.machine import Cores, commit, machine, versions
from bench.measures import MEASURES, Bench, Figure
from cli.local_broker import LocalBroker
from schemas.errors import BadInput

__all__ = ["MILLION", "measure", "own_broker"]

#: Left out unless asked for: it takes minutes.
MILLION: Final = "peak_rss_mb"
#: Name of a ratio -> (numerator, denominator).
_RATIOS: Final = {
    "lane / quix": ("item_updates_per_s", "quix_per_s"),
    "lane / quix exactly once": ("item_updates_per_s", "quix_exactly_once_per_s"),
    "lane / stock faust": ("item_updates_per_s", "stock_faust_per_s"),
    "lane / raw": ("item_updates_per_s", "raw_per_s"),
    "lane, one row per record / stock faust": ("item_updates_row_per_record_per_s", "stock_faust_per_s"),
    "recovery / stock recovery": ("recovery_rows_per_s", "stock_recovery_rows_per_s"),
}
#: Called before each measurement with (key, repetition).
Progress = Callable[[str, int], None]


def measure(keys: Sequence[str], records: int, entities: int, repetitions: int, progress: Progress) -> dict[str, Any]:
    """Measure the keys (none: all but MILLION) and return what `aif bench streams --json` prints.

    Raises BadInput for a key that is none of MEASURES, Unavailable or Corrupt where a measurement fails.
    """
    unknown = sorted(set(keys) - set(MEASURES))
    if unknown:
        raise BadInput(f"{', '.join(unknown)} cannot be measured; choose from {', '.join(MEASURES)}")
    chosen = list(keys) or [key for key in MEASURES if key != MILLION]
    cores = Cores.available()
    surroundings = machine(cores)
    runs: dict[str, list[Figure]] = {key: [] for key in chosen}
    with pinned(cores.rest), own_broker() as (servers, folder):
        bench = Bench(servers, folder, cores, records, entities)
        # In turn and not one after the other: what disturbs the machine for a minute then hits all candidates.
        for repetition in range(repetitions):
            for key in chosen:
                if key == MILLION and repetition:
                    continue
                progress(key, repetition)
                runs[key].append(MEASURES[key](bench))
    return {
        **_summary(runs),
        "runs": {key: [_rounded(figure) for figure in figures] for key, figures in runs.items()},
        "records": records,
        "entities": entities,
        "repetitions": repetitions,
        "machine": surroundings,
        "commit": commit(),
        "versions": versions(),
    }


@contextmanager
def own_broker() -> Iterator[tuple[str, Path]]:
    """A broker of this run alone, in a folder of its own; both are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="aif-bench-") as folder:
        broker = LocalBroker(Path(folder), os.environ)
        broker.start()
        try:
            yield broker.bootstrap_servers, Path(folder)
        finally:
            broker.stop()


def _summary(runs: dict[str, list[Figure]]) -> dict[str, Any]:
    def middle(key: str, name: str = "value") -> float:
        return median(figure[name] for figure in runs[key])

    found: dict[str, Any] = {key: round(middle(key)) for key in runs if key != "freshness_ms"}
    if "freshness_ms" in runs:
        found["freshness_ms"] = {name: round(middle("freshness_ms", name), 1) for name in ("p50", "p99")}
    if "item_updates_per_s" in runs:
        found["records_per_row"] = round(middle("item_updates_per_s", "records_per_row"), 2)
    blocks = [figure["loop_block_ms"] for figures in runs.values() for figure in figures if "loop_block_ms" in figure]
    if blocks:
        found["loop_block_ms_max"] = round(max(blocks), 1)
    found["ratios"] = {
        name: round(middle(over) / middle(under), 2)
        for name, (over, under) in _RATIOS.items()
        if over in runs and under in runs
    }
    return found


def _rounded(figure: Figure) -> Figure:
    return {name: round(value, 2) for name, value in figure.items()}
