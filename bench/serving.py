"""The run of `aif bench serving`: fill, measure each part in a process of its own, check that all score alike, sum up.

The measured process has one core to itself; this process, which is the client of the HTTP figures, another one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.job import Job, pinned, run
from bench.machine import Cores, commit, cpu_features, machine, versions
from bench.serving_figures import EXACT, HTTP, check_scores, http_figures, ratios
from bench.serving_http import served
from bench.serving_world import Sizes, World
from schemas.errors import BadInput

__all__ = ["KEYS", "measure_serving"]

#: Key of the output -> kernel that scores in the process that measures it.
_KERNELS: Final = {
    "inprocess_ms": "numba", "inprocess_c_ms": "c", "inprocess_c_bfloat16_ms": "c-bfloat16", "numpy_ms": "numpy"
}  # fmt: skip
_TORCH: Final = "torch_sequential_ms"
_ROCKSDB: Final = "rocksdb_multi_get_ms"
_USER_PHASE: Final = "user_phase_ms"
_ADDED: Final = "added_ms_over_retrieval"
KEYS: Final = (*_KERNELS, _TORCH, _ROCKSDB, _USER_PHASE, _ADDED, *HTTP)

_PACKAGES: Final = ("numpy", "numba", "onnxruntime", "lmdb", "uvicorn", "uvloop", "torch", "rocksdict")
_WITHIN_S: Final = 1_800.0
#: Called before each part with its name.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Run:
    world: World
    cores: Cores
    sizes: Sizes
    progress: Progress

    def process(self, module: str, **options: Any) -> dict[str, Any]:
        """What a process reports that measures over the filled folder."""
        job = Job(
            "",
            "",
            1,
            0,
            str(self.world.folder),
            {"rounds": self.sizes.rounds, "enough_s": self.sizes.enough_s, **options},
        )
        return run(module, job, self.cores.measured, _WITHIN_S)


def measure_serving(keys: Sequence[str], sizes: Sizes, folder: Path | None, progress: Progress) -> dict[str, Any]:
    """Measure the keys (none: all) and return what `aif bench serving --json` prints.

    A `folder` keeps what was filled, for the next run. Raises BadInput for a key that is none of KEYS or a folder with
    another number of items, Unavailable where a process fails, Corrupt where two of them score differently.
    """
    if unknown := sorted(set(keys) - set(KEYS)):
        raise BadInput(f"{', '.join(unknown)} cannot be measured; choose from {', '.join(KEYS)}")
    chosen = [key for key in KEYS if not keys or key in keys]
    cores = Cores.available()
    surroundings = machine(cores)
    with pinned(cores.rest), _filled(folder, sizes, cores, progress) as (world, first_start_ms):
        bench, found = _Run(world, cores, sizes, progress), _Found()
        _ours(bench, chosen, found)
        _rivals(bench, chosen, found)
        figures = found.figures
        if first_start_ms is not None:
            figures["first_start_ms"] = round(first_start_ms)
        if set(chosen) & set(HTTP):
            figures |= http_figures(world, cores.measured, sizes, [key for key in HTTP if key in chosen], progress)
    return {
        **figures, "ratios": ratios(figures, sizes), **check_scores(found.scores), "items": world.items,
        "repetitions": sizes.rounds, "cpu_features": cpu_features(), "machine": surroundings, "commit": commit(),
        "versions": versions(_PACKAGES),
    }  # fmt: skip


@dataclass(frozen=True)
class _Found:
    figures: dict[str, Any] = field(default_factory=dict)
    #: Who gave scores to the request that all answer, and which.
    scores: dict[str, list[float]] = field(default_factory=dict)


def _ours(bench: _Run, chosen: Sequence[str], found: _Found) -> None:
    """Every kernel that was asked for; the user phase with the fastest of them."""
    figures = found.figures
    kernels = {key: kernel for key, kernel in _KERNELS.items() if key in chosen}
    for key, kernel in kernels.items() or [(_USER_PHASE, None)] * (_USER_PHASE in chosen):
        bench.progress(f"{key} ({kernel or 'the fastest kernel'})")
        told = bench.process("bench.serving_inprocess", kernel=kernel, shapes=bench.sizes.shapes if kernel else [])
        if told["missing"]:
            figures[key], figures[f"{key}_missing"] = None, told["missing"]
            continue
        if kernel:
            figures[key], found.scores[told["kernel"]] = _rounded(told["ms"]), told["scores"]
        if _USER_PHASE in chosen:
            figures[_USER_PHASE] = min(figures.get(_USER_PHASE, math.inf), round(told["user_phase_ms"], 3))
    if _ADDED in chosen:
        bench.progress(_ADDED)
        told = bench.process("bench.serving_merged", candidates=bench.sizes.main_shape[0])
        figures |= _rounded(told["ms"])


def _rivals(bench: _Run, chosen: Sequence[str], found: _Found) -> None:
    figures = found.figures
    if _TORCH in chosen:
        bench.progress(_TORCH)
        told = bench.process("bench.rivals.torch_sequential", shapes=bench.sizes.shapes, compiled=bench.sizes.compiled)
        figures[_TORCH] = _rounded(told["ms"])
        figures["torch_sequential_user_ms"] = round(told["user_ms"], 3)
        figures["torch_sequential_runs_as"] = {"dtype": told["dtype"], "compiled": told["compiled"]}
        found.scores.update({EXACT: told["scores"], f"torch {told['dtype']}, as timed": told["rounded_scores"]})
    if _ROCKSDB in chosen:
        bench.progress(_ROCKSDB)
        told = bench.process("bench.rivals.rocksdb_rows", counts=bench.sizes.candidates)
        figures[_ROCKSDB] = _rounded(told["ms"])


@contextmanager
def _filled(
    folder: Path | None, sizes: Sizes, cores: Cores, progress: Progress
) -> Iterator[tuple[World, float | None]]:
    """The filled folder: the one that was named, else one of this run alone; and how long the server's first start
    took, which makes its state from the tables, where it was in this run."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="aif-bench-") as name:
            yield _fill(Path(name), sizes, cores, progress)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        yield _fill(folder, sizes, cores, progress)
        return
    world = World.open(folder)
    if (world.items, tuple(world.behaviours)) != (sizes.items, sizes.behaviours):
        raise BadInput(f"{folder} holds {world.items} items: choose --items {world.items} or another --folder")
    yield world, None


def _fill(folder: Path, sizes: Sizes, cores: Cores, progress: Progress) -> tuple[World, float]:
    progress(f"fill {sizes.items:,} items")
    options = {"behaviours": sizes.behaviours, "users": sizes.users}
    run("bench.serving_fill", Job("", "", 1, sizes.items, str(folder), options), cores.measured, _WITHIN_S)
    world = World.open(folder)
    progress("first start of the server")
    with served(world, cores.measured) as server:
        return world, server.ready_after_ms


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: float(np.round(value, 3)) for name, value in figures.items()}
