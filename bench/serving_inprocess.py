"""Scoring without HTTP: from item ids to a ranking, as a scoring thread does it, with the user's state at hand.

Also what making that state takes. A process of its own (bench/job.py), once for each kernel, over the state that
`aif serve` made of the filled folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from bench.job import Job
from bench.serving_state import Opened, opened
from bench.serving_world import TOP_K, World, shape_key
from bench.stopwatch import in_rounds, milliseconds
from schemas.errors import BadInput
from serving.kernels import choose

__all__: list[str] = []

_REQUESTS: Final = 8


def main(job: Job) -> None:
    """Time `shapes`, and the user phase of the user that all answer for; their scores."""
    try:
        kernel = choose(job.options["kernel"]).name
    except BadInput as error:
        job.report(missing=str(error))
        return
    rounds, enough_s = int(job.options["rounds"]), float(job.options["enough_s"])
    with opened(World.open(Path(job.folder))) as serving:
        world = serving.world
        make = partial(serving.state, world.check_behaviours)
        ids = world.item_ids[world.check_candidates]
        figures = {shape_key(*shape): _ranked(serving, *shape, enough_s) for shape in job.options["shapes"]}
        report = {
            "ms": in_rounds(figures, rounds),
            **in_rounds({"user_phase_ms": lambda: milliseconds([make], enough_s)}, rounds),
            "scores": serving.rank(make(), ids, len(ids)).scores.tolist(),
        }
    job.report(missing=None, kernel=kernel, **report)


def _ranked(serving: Opened, candidates: int, behaviours: int, enough_s: float) -> Callable[[], float]:
    world, state = serving.world, serving.state(behaviours)
    requests = [world.item_ids[world.candidates(candidates, seed)] for seed in range(_REQUESTS)]
    calls = [partial(serving.rank, state, ids, min(TOP_K, len(ids))) for ids in requests]
    return lambda: milliseconds(calls, enough_s)


if __name__ == "__main__":
    main(Job.from_argv())
