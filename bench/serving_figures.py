"""The figures over HTTP, the check that everything scores alike, and the ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from bench.open_loop import Outcome, drive
from bench.serving_http import Server, binary_requests, json_requests, served
from bench.serving_world import Sizes, World, shape_key
from schemas.errors import Corrupt

__all__ = ["EXACT", "HTTP", "RATES_PER_S", "check_scores", "http_figures", "ratios"]

#: Requests a second at which latencies are measured, well below what a core answers.
RATES_PER_S: Final = {"http_ms": 100.0, "http_uncached_ms": 50.0, "http_json_ms": 50.0}
#: What is measured at a running server.
HTTP: Final = (*RATES_PER_S, "scores_per_s", "cold_start_ms", "rss_mb", "bytes_per_item")

_CONNECTIONS: Final = 8
#: Requests per second of load that are all due at once where `scores_per_s` is measured.
_SATURATING_PER_S: Final = 150.0
#: Scores are probabilities. What multiplies float32 differs by the order of sums, what rounds to less by more.
_TOLERANCE: Final = 0.001
_ROUGH: Final = 0.03
#: Who computes the network itself, with nothing rounded: all others are compared with it.
EXACT: Final = "torch float32"


def http_figures(
    world: World, core: int | None, sizes: Sizes, keys: Sequence[str], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Start the server often enough to time it, then load it: every key in every round."""
    found: dict[str, Any] = {}
    progress("starts of the server")
    starts_ms = [_start_ms(world, core) for _ in range(sizes.rounds - 1 if "cold_start_ms" in keys else 0)]
    with served(world, core) as server:
        if "cold_start_ms" in keys:
            found["cold_start_ms"] = round(median([*starts_ms, server.ready_after_ms]))
        loads = [key for key in keys if key in RATES_PER_S or key == "scores_per_s"]
        rounds: dict[str, list[Outcome]] = {key: [] for key in loads}
        requests = {key: _requests(world, sizes, key) for key in loads}
        for number in range(sizes.rounds):
            for key in loads:
                progress(f"{number + 1}/{sizes.rounds} {key}")
                rounds[key].append(_load(server, key, requests[key]))
        for key, outcomes in rounds.items():
            found[key] = _figure(key, outcomes, sizes)
        held = server.get("/readyz")
        if "rss_mb" in keys:
            found["rss_mb"] = round(server.memory_mb)
        if "bytes_per_item" in keys:
            found["bytes_per_item"] = round(server.get("/v1/versions")["live"]["slab_bytes"] / held["items"], 1)
    if any(key in RATES_PER_S for key in loads):
        found["rates_per_s"] = {key: RATES_PER_S[key] for key in loads if key in RATES_PER_S}
    return found


def _start_ms(world: World, core: int | None) -> float:
    with served(world, core) as server:
        return server.ready_after_ms


def _requests(world: World, sizes: Sizes, key: str) -> list[bytes]:
    count, candidates = math.ceil(sizes.load_s * RATES_PER_S.get(key, _SATURATING_PER_S)), sizes.main_shape[0]
    if key == "http_json_ms":
        return json_requests(world, count, candidates)
    return binary_requests(world, count, candidates, cached=key != "http_uncached_ms")


def _load(server: Server, key: str, requests: Sequence[bytes]) -> Outcome:
    """Some requests first, so that what is to be cached is."""
    if key != "http_uncached_ms":
        drive(server.port, requests[:128], None, 1)
    return drive(server.port, requests, RATES_PER_S.get(key), _CONNECTIONS)


def _figure(key: str, outcomes: Sequence[Outcome], sizes: Sizes) -> Any:
    if key == "scores_per_s":
        return round(median(len(each.latency_ms) * sizes.main_shape[0] / each.seconds for each in outcomes))
    percentiles = [each.percentiles() for each in outcomes]
    return {name: round(median(each[name] for each in percentiles), 3) for name in ("p50", "p99")}


def check_scores(scores: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """`largest_difference` of each one's scores from those of the network in float32, computed at request time.

    Raises Corrupt where one is not the same network. Nothing to compare, nothing said.
    """
    if EXACT not in scores:
        return {}
    exact = np.array(scores[EXACT])
    found = {}
    for name, theirs in scores.items():
        if name == EXACT:
            continue
        difference = float(np.abs(np.array(theirs) - exact).max())
        allowed = _TOLERANCE if name in ("numpy", "numba") else _ROUGH
        if not difference <= allowed:
            raise Corrupt(f"scores of {name} differ from the network's by {difference:.4f}, more than {allowed}")
        found[name] = float(f"{difference:.2g}")
    return {"largest_difference": found}


def ratios(found: Mapping[str, Any], sizes: Sizes) -> dict[str, float]:
    """How many times longer the rivals take at the main shape; what was not measured is left out."""
    key = shape_key(*sizes.main_shape)
    names = {"c": "inprocess_c_ms", "c-bfloat16": "inprocess_c_bfloat16_ms", "numba": "inprocess_ms"}
    ours = {name: found[each][key] for name, each in names.items() if key in (found.get(each) or {})}
    theirs = {
        "torch sequential": (found.get("torch_sequential_ms") or {}).get(key),
        "numpy": (found.get("numpy_ms") or {}).get(key),
        "rocksdb multi_get alone": (found.get("rocksdb_multi_get_ms") or {}).get(str(sizes.main_shape[0])),
    }
    return {
        f"{rival} / {name}": round(theirs_ms / ours_ms, 2)
        for rival, theirs_ms in theirs.items() if theirs_ms is not None
        for name, ours_ms in ours.items()
    }  # fmt: skip
