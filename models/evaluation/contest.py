"""One log, every model, several seeds: train side by side, judge on the same held-out examples and queries.

GAUC   AUC per user over held-out examples, weighted by the user's examples; differences are paired (bootstrap.py).
HR@K   teacher: share of the full ranker's K best of the whole catalogue that are among the model's K best, the ranker
       of the same seed. clicks: share of the items that the user engages with in the held-out time that are among the
       model's K best (of at most K wanted). Both are means over the queries of full_catalogue.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.aif import AIF
from models.baselines.cold import Cold
from models.baselines.din import Din
from models.baselines.eta import Eta
from models.baselines.parts import BaselineConfig
from models.baselines.popularity import Popularity
from models.baselines.ranker import Ranker
from models.baselines.two_tower import TwoTower
from models.config import ModelConfig
from models.device import Device, device_named
from models.evaluation.full_catalogue import FullCatalogue, full_catalogue
from models.evaluation.judged import Judged, judged, spread
from models.evaluation.kept_seeds import KeptSeeds, SeedResults
from models.examples import Batches, Examples, examples_of
from models.fitting import Budget, Distillation, Progress, fit, reproducible
from models.log import Log
from models.metrics import auc, group_auc, hit_rate

__all__ = ["CEILING", "CUTOFFS", "DISTILLED", "FLOOR", "STUDENT", "Contest", "ContestOptions", "Measured", "contest"]

FLOOR: Final = "two_tower"
CEILING: Final = "ranker"
STUDENT: Final = "aif"
DISTILLED: Final = "aif_distilled"
CUTOFFS: Final = (10, 100)
_Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ContestOptions:
    """What every model of a contest gets."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    budget: Budget = field(default_factory=lambda: Budget(epochs=1, batch_size=128))
    max_examples: int | None = None  #: the newest so many examples of the log
    held_out: float = 0.2  #: share of the newest of them that is judged
    trained: int = 64_000  #: at most so many of the others are trained on, evenly spread
    judged: int = 16_000  #: at most so many of the judged share are, evenly spread
    negatives: int = 4  #: drawn per positive, where the log has no impressions
    queries: int = 64  #: users whose whole catalogue is ranked
    distillation: float = 0.5  #: share of the teacher in the distilled model's loss
    threads: int = 1
    device: Device = "cpu"  #: that models are trained on


@dataclass
class Measured:
    """A model's results, one row a seed."""

    parameters: int
    online_multiply_adds: int
    user_auc: list[_Float] = field(default_factory=list)  #: [users] of each seed
    auc: list[float] = field(default_factory=list)
    hits: dict[str, list[_Float]] = field(default_factory=dict)  #: metric -> [queries] of each seed


@dataclass
class Contest:
    """The outcome on one log."""

    log: dict[str, Any]  #: counts and times of what was trained on and judged
    user_weights: _Float  #: [users] held-out examples of each user that has an AUC
    queries: int
    models: dict[str, Measured]
    truth: float | None = None  #: GAUC of the true chances, of a log that has them
    earlier_s: float = 0.0  #: what seeds took that an earlier run had finished


def contest(
    log: Log,
    config: ModelConfig,
    sizes: BaselineConfig,
    options: ContestOptions,
    progress: Callable[[str, Progress], None] = lambda *_: None,
    truth: npt.NDArray[np.float32] | None = None,
    keep_in: Path | None = None,
) -> Contest:
    """Train and judge every model with every seed.

    `truth` are the true chances of all examples of the log, in their order, where they are known. Finished seeds are
    kept in the folder `keep_in`, and those that an earlier run of the same contest kept there are not made again.
    Raises BadInput where the log has too few examples, or where a loss is not finite.
    """
    examples = examples_of(log)
    examples = examples.take(slice(max(0, len(examples) - (options.max_examples or len(examples))), None))
    known, tail = examples.split(log, options.held_out)
    known = spread(known, options.trained)
    batches = Batches(log, config, options.negatives, sizes.long_behaviours)
    chosen = spread(tail, options.judged)
    held = judged(log, batches, chosen)
    full = full_catalogue(log, batches, tail, options.queries)
    _, _, weights = group_auc(held.users, held.labels, np.zeros(len(held.labels), dtype=np.float32))
    found = Contest(_about(log, known, tail, held, full), weights, len(full.states), {})
    if truth is not None:
        true = spread(Examples(np.arange(len(tail)), truth[-len(tail) :], tail.states, False), options.judged).labels
        _, each, _ = group_auc(held.users, held.labels, true)
        found.truth = float(np.average(each, weights=weights))
    settings = {"config": asdict(config), "sizes": asdict(sizes), "options": asdict(replace(options, seeds=()))}
    kept = KeptSeeds.of(keep_in, (log, truth), settings) if keep_in else None
    for seed in options.seeds:
        if kept and (earlier := kept.find(seed)):
            _add(found, earlier[0])
            found.earlier_s += earlier[1]
            continue
        started = time.monotonic()
        with reproducible(seed, options.threads, device_named(options.device)):
            results = _judged(_trained(log, batches, known, config, sizes, options, seed, progress), held, full)
        _add(found, results)
        if kept:
            kept.keep(seed, results, time.monotonic() - started)
    return found


def _trained(
    log: Log,
    batches: Batches,
    known: Examples,
    config: ModelConfig,
    sizes: BaselineConfig,
    options: ContestOptions,
    seed: int,
    progress: Callable[[str, Progress], None],
) -> dict[str, nn.Module]:
    makers: dict[str, Callable[[], nn.Module]] = {
        FLOOR: lambda: TwoTower(config),
        "cold": lambda: Cold(config),
        "din": lambda: Din(config, sizes),
        "eta": lambda: Eta(config, sizes),
        CEILING: lambda: Ranker(config, sizes),
        STUDENT: lambda: AIF(config),
    }
    models, device = {}, device_named(options.device)
    for name, make in makers.items():
        torch.manual_seed(seed)  # a model's start does not depend on who stands before it
        models[name] = make()
    fit(models, batches, known, options.budget, seed, lambda at: progress(f"seed {seed}", at), device=device)
    torch.manual_seed(seed)
    models[DISTILLED] = AIF(config)
    teacher = Distillation(models[CEILING], options.distillation)
    fit(
        {DISTILLED: models[DISTILLED]}, batches, known, options.budget, seed,
        lambda at: progress(f"seed {seed}, distilling", at), teacher, device=device,
    )  # fmt: skip
    return {"popularity": Popularity.of(log, known), **models}


def _judged(models: dict[str, nn.Module], held: Judged, full: FullCatalogue) -> SeedResults:
    """What one seed's models are worth: the fields of Measured, of one seed."""
    ranked = {name: full.scores(model) for name, model in models.items()} if len(full.states) else {}
    best = {cutoff: _best(ranked[CEILING], cutoff) for cutoff in CUTOFFS} if ranked else {}
    found: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for name, model in models.items():
        logits = held.scores(model)
        found[name] = {
            "parameters": np.array(sum(each.numel() for each in model.parameters())),
            "online_multiply_adds": np.array(model.online_multiply_adds()),  # type: ignore[operator]
            "user_auc": group_auc(held.users, held.labels, logits)[1],
            "auc": np.array(auc(held.labels, logits)),
        }
        for cutoff, teacher in best.items():
            for metric, wanted in ((f"hr{cutoff}_teacher", teacher), (f"hr{cutoff}_clicks", full.wanted)):
                hits = [hit_rate(own, scores, cutoff) for own, scores in zip(wanted, ranked[name], strict=True)]
                found[name][metric] = np.array(hits)
    return found


def _add(found: Contest, results: SeedResults) -> None:
    for name, values in results.items():
        each = dict(values)
        parameters, cost = (int(each.pop(one)) for one in ("parameters", "online_multiply_adds"))
        measured = found.models.setdefault(name, Measured(parameters, cost))
        measured.user_auc.append(each.pop("user_auc"))
        measured.auc.append(float(each.pop("auc")))
        for metric, hits in each.items():
            measured.hits.setdefault(metric, []).append(hits)


def _best(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.bool_]:
    """Where each row's `count` highest scores are ([Q, N] -> [Q, N])."""
    best = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(best, np.argsort(-scores, axis=1, kind="stable")[:, :count], True, axis=1)
    return best


def _about(log: Log, known: Examples, tail: Examples, held: Judged, full: FullCatalogue) -> dict[str, Any]:
    times = log.events.time_ms
    return {
        "events": len(log.events),
        "items": len(np.unique(log.catalogue.item_id)),
        "users": len(np.unique(log.events.user_id)),
        "negatives": "drawn" if known.sampled else "impressions without an answer",
        "train_examples": len(known),
        "train_from_ms": int(times[known.positions[0]]),
        "judged_from_ms": int(times[tail.positions[0]]),
        "judged_until_ms": int(times[tail.positions[-1]]),
        "judged_candidates": len(held.labels),
        "judged_positives": int(held.labels.sum()),
        "queries": len(full.states),
        "query_candidates": len(full.rows),
    }
