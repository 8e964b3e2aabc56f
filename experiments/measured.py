"""Variants of a model, trained side by side with several seeds and judged on the same users.

All variants of a seed see the same batches with the same drawn negatives in the same order (models/fitting.py), start
from the same seed, and are judged on the same candidates. Differences are paired over users and seeds
(models/evaluation/bootstrap.py); intervals are of 95 %.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from experiments.logs import PLANS, Plan, open_log
from models.config import ModelConfig
from models.device import best_device, device_named
from models.evaluation.bootstrap import Estimate, Paired
from models.evaluation.judged import Judged, judged, spread
from models.examples import Batches, Examples, examples_of
from models.fitting import Budget, Progress, fit, reproducible
from models.log import Log
from models.metrics import group_auc

__all__ = [
    "BUDGET", "Data", "Measured", "Report", "Settings", "Variant", "about", "against", "data_of", "interval", "machine",
    "measured", "on_logs",
]  # fmt: skip

_Float = npt.NDArray[np.float64]
#: One pass; what `aif evaluate` gives every model.
BUDGET: Final = Budget(epochs=1, batch_size=128)
#: Drawn per positive where the log has no impressions.
_NEGATIVES: Final = 4


class Report(Protocol):
    """Hears how far an experiment is."""

    def __call__(self, what: str, done: int, of: int) -> None:
        """`done` of `of` steps of `what`."""


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    seeds: int = 3
    small: bool = False

    def plan(self, log: str) -> Plan:
        """A log's plan, or the small one."""
        return PLANS[log].small if self.small else PLANS[log]


@dataclass(frozen=True)
class Variant:
    """A model under a name: how to make it, and what is added to its loss."""

    make: Callable[[], nn.Module]
    penalty: Callable[[nn.Module], Tensor] | None = None


@dataclass(frozen=True)
class Data:
    """What the variants of an experiment are trained and judged on."""

    log: Log
    batches: Batches
    known: Examples  #: trained on
    tail: Examples  #: judged
    held: Judged


@dataclass
class Measured:
    """Results by variant."""

    user_weights: _Float  #: [users] judged candidates of each user that has an AUC
    user_auc: dict[str, _Float] = field(default_factory=dict)  #: [seeds, users]
    models: dict[str, list[nn.Module]] = field(default_factory=dict)  #: of each seed, trained

    def gauc(self, name: str) -> Estimate:
        """A variant's GAUC, with draws that all variants share."""
        return Paired(len(self.user_auc[name]), self.user_weights).estimate(self.user_auc[name])


def data_of(log: Log, config: ModelConfig, plan: Plan) -> Data:
    """A log's examples by the plan; users with as many behaviours as `config` reads, which no variant may exceed."""
    examples = examples_of(log)
    known, tail = examples.take(slice(max(0, len(examples) - plan.examples), None)).split(log, plan.held_out)
    known, tail = spread(known, plan.trained), spread(tail, plan.judged)
    batches = Batches(log, config, _NEGATIVES)
    return Data(log, batches, known, tail, judged(log, batches, tail))


def on_logs(
    names: Iterable[str], config: ModelConfig, settings: Settings, report: Report, more: int = 1
) -> Iterator[tuple[str, Data, Report]]:
    """The data of each log by its plan, one after the other, with a report that names the log.

    `more` multiplies the planted log's trained examples, of which there are more than the plan takes.
    """
    for name in names:
        report(f"opening {name}", 0, 1)
        plan = settings.plan(name)
        if name == "planted":
            plan = replace(plan, trained=plan.trained * more)

        def of_log(what: str, done: int, of: int, name: str = name) -> None:
            report(f"{name}, {what}", done, of)

        yield name, data_of(open_log(name, plan, config), config, plan), of_log


def measured(data: Data, variants: Mapping[str, Variant], seeds: int, report: Report) -> Measured:
    """Train and judge every variant with seeds 1 to `seeds`."""
    found = Measured(_user_weights(data.held))
    user_auc: dict[str, list[_Float]] = {name: [] for name in variants}
    device = device_named(best_device())
    for seed in range(1, seeds + 1):
        with reproducible(seed, threads=1, device=device):
            models = {}
            for name, variant in variants.items():
                torch.manual_seed(seed)  # a variant's start does not depend on who stands before it
                models[name] = variant.make()

            def step(at: Progress, seed: int = seed) -> None:
                report(f"seed {seed} of {seeds}", at.step, at.steps)

            penalties = {name: each.penalty for name, each in variants.items() if each.penalty is not None}
            fit(models, data.batches, data.known, BUDGET, seed, step, penalties=penalties, device=device)
            for name, model in models.items():
                model.eval()
                user_auc[name].append(group_auc(data.held.users, data.held.labels, data.held.scores(model))[1])
                found.models.setdefault(name, []).append(model)
    found.user_auc = {name: np.stack(rows) for name, rows in user_auc.items()}
    return found


def against(found: Measured, reference: str) -> list[dict[str, Any]]:
    """A row for every variant: GAUC, its difference to the reference's, size and online cost. JSON values."""
    base, rows = found.gauc(reference), []
    for name, models in found.models.items():
        own = found.gauc(name)
        rows.append(
            {
                "name": name,
                "gauc": interval(own),
                "difference": interval(own - base),
                "online_multiply_adds": models[0].online_multiply_adds(),  # type: ignore[operator]
            }
        )
    return rows


def about(data: Data, seeds: int) -> dict[str, Any]:
    """How much of the log was used, for the page."""
    return {
        "seeds": seeds,
        "behaviours": data.batches.dimensions.long_behaviours,
        "negatives": "drawn" if data.known.sampled else "impressions without an answer",
        "train_examples": len(data.known),
        "judged_candidates": len(data.held.labels),
        "judged_positives": int(data.held.labels.sum()),
        "users_with_auc": len(_user_weights(data.held)),
    }


def interval(estimate: Estimate) -> dict[str, float | None]:
    """A number with the ends of its interval; None where there is none (JSON has no nan)."""
    if not np.isfinite(estimate.value):
        return {"value": None, "low": None, "high": None}
    return {name: round(float(getattr(estimate, name)), 6) for name in ("value", "low", "high")}


def machine() -> str:
    """What an experiment ran on; trainings use one thread."""
    return f"{platform.machine()}, torch {torch.__version__}, numpy {np.__version__}"


def _user_weights(held: Judged) -> _Float:
    """Judged candidates of each user that has an AUC."""
    return group_auc(held.users, held.labels, np.zeros(len(held.labels), dtype=np.float32))[2]
