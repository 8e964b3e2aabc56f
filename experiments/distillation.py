"""What a teacher adds: its chances in the place of labels, its order beside them, or both.

The full ranker is trained first, then the same AIF four times from the same weights on the same batches: alone, on
half labels and half the ranker's chances, on labels and the ranker's order (models/alignment.py), and on both. Judged
twice: GAUC on what users did, and the share of the ranker's 100 best of the whole catalogue that are among the model's
own, which is what a pre-ranker is there for.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import nn

from experiments.measured import BUDGET, Data, Report, Settings, about, interval, on_logs
from experiments.record import COLOURS, columns, new_figure, span, table
from models.aif import AIF
from models.alignment import Alignment
from models.baselines.parts import BaselineConfig
from models.baselines.ranker import Ranker
from models.config import ModelConfig
from models.evaluation.bootstrap import Estimate, Paired
from models.evaluation.full_catalogue import FullCatalogue, full_catalogue
from models.fitting import Distillation, Progress, fit, reproducible
from models.metrics import group_auc, hit_rate

__all__ = ["figure", "run", "tables"]

_LOGS: Final = ("planted", "online-retail-2")
#: Of what the ranker attends to, so that the teacher sees no more than its students.
_CONFIG: Final = ModelConfig(long_behaviours=64)
_ALONE: Final = "alone"
_TEACHER: Final = "ranker"
_SHARE: Final = 0.5
_WEIGHT: Final = 1.0
_STUDENTS: Final = (_ALONE, "chances", "order", "both")
_QUERIES: Final = 24
_KEPT: Final = 100
_Float = npt.NDArray[np.float64]


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every student of every log, with its differences to the one that learned alone."""
    return {
        "share": _SHARE, "weight": _WEIGHT, "queries": _QUERIES, "kept": _KEPT,
        "logs": {
            name: _measured(data, settings.seeds, of_log)
            for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report)
        },
    }  # fmt: skip


def _measured(data: Data, seeds: int, report: Report) -> dict[str, Any]:
    full = full_catalogue(data.log, data.batches, data.tail, _QUERIES)
    users: dict[str, list[_Float]] = {}
    kept: dict[str, list[_Float]] = {}
    for seed in range(1, seeds + 1):

        def progress(who: str, at: Progress, seed: int = seed) -> None:
            report(f"seed {seed} of {seeds}, {who}", at.step, at.steps)

        with reproducible(seed, threads=1):
            _judge(_trained(data, seed, progress), data, full, users, kept)
    _, _, weights = group_auc(data.held.users, data.held.labels, np.zeros(len(data.held.labels), dtype=np.float32))
    gauc = _estimates(users, weights)
    kept_share = _estimates(kept, np.ones(len(full.states)))
    rows = [
        {
            "name": each,
            "gauc": interval(gauc[each]),
            "kept": interval(kept_share[each]),
            "gauc_difference": interval(gauc[each] - gauc[_ALONE]),
            "kept_difference": interval(kept_share[each] - kept_share[_ALONE]),
        }
        for each in (*_STUDENTS, _TEACHER)
    ]
    return {**about(data, seeds), "query_candidates": len(full.rows), "rows": rows}


def _trained(data: Data, seed: int, progress: Any) -> dict[str, nn.Module]:
    """The teacher and its students of a seed."""
    torch.manual_seed(seed)
    teacher = Ranker(_CONFIG, BaselineConfig())
    fit({_TEACHER: teacher}, data.batches, data.known, BUDGET, seed, lambda at: progress(_TEACHER, at))
    models: dict[str, nn.Module] = {_TEACHER: teacher}
    for student in _STUDENTS:
        torch.manual_seed(seed)
        models[student] = AIF(_CONFIG)
        fit(
            {student: models[student]}, data.batches, data.known, BUDGET, seed,
            lambda at, student=student: progress(student, at),  # type: ignore[misc]
            Distillation(teacher, _SHARE) if student in ("chances", "both") else None,
            Alignment(teacher, _WEIGHT) if student in ("order", "both") else None,
        )  # fmt: skip
    return models


def _judge(
    models: dict[str, nn.Module],
    data: Data,
    full: FullCatalogue,
    users: dict[str, list[_Float]],
    kept: dict[str, list[_Float]],
) -> None:
    """Add a seed's AUC of every user and share kept of every query, by model."""
    wanted = _best(full.scores(models[_TEACHER]))
    for name, model in models.items():
        model.eval()
        users.setdefault(name, []).append(group_auc(data.held.users, data.held.labels, data.held.scores(model))[1])
        shares = [hit_rate(best, own, _KEPT) for best, own in zip(wanted, full.scores(model), strict=True)]
        kept.setdefault(name, []).append(np.array(shares))


def _best(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where each row's best scores are ([Q, N] -> [Q, N])."""
    best = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(best, np.argsort(-scores, axis=1, kind="stable")[:, :_KEPT], True, axis=1)
    return best


def _estimates(values: dict[str, list[_Float]], weights: _Float) -> dict[str, Estimate]:
    paired = Paired(len(values[_ALONE]), weights)
    return {name: paired.estimate(np.stack(rows)) for name, rows in values.items()}


def tables(found: dict[str, Any]) -> str:
    """A table for each log."""
    parts = [
        f"Students learn {found['share']:.0%} chances, or the order with weight {found['weight']:g}, of a ranker "
        f"trained before them. Kept is the share of the ranker's {found['kept']} best of the catalogue that are among "
        f"the model's, over {found['queries']} users. Differences are to the model that learned alone.\n"
    ]
    for name, log in found["logs"].items():
        rows = (
            [row["name"], *(span(row[key]) for key in ("gauc", "gauc_difference", "kept", "kept_difference"))]
            for row in log["rows"]
        )
        parts.append(
            f"\n## {name}\n\n{log['train_examples']:,} examples to learn from ({log['negatives']}), "
            f"{log['judged_candidates']:,} judged candidates of {log['users_with_auc']:,} users; "
            f"{log['query_candidates']:,} items to rank.\n\n"
            + table(("taught", "GAUC", "difference", f"kept@{found['kept']}", "difference"), rows)
        )
    return "".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Differences to learning alone: GAUC on the left, what is kept of the ranker's best on the right."""
    drawn, axes = new_figure(2)
    for place, (name, log) in enumerate(found["logs"].items()):
        rows = [row for row in log["rows"] if row["name"] in _STUDENTS[1:]]
        for each, key in zip(axes, ("gauc_difference", "kept_difference"), strict=True):
            values, below, above = columns(rows, key)
            x = np.arange(len(rows)) + 0.15 * (place - 0.5)
            each.errorbar(x, values, yerr=[below, above], fmt="o", capsize=3, label=name, color=COLOURS[place])
            each.set_xticks(range(len(rows)), [row["name"] for row in rows])
            each.axhline(0, color="black", linewidth=0.8)
    axes[0].set_ylabel("GAUC, difference to learning alone")
    axes[1].set_ylabel(f"kept@{found['kept']} of the ranker, difference")
    axes[0].legend()
    return drawn
