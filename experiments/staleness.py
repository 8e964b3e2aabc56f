"""Item vectors of an age: a model trained on vectors as of now, judged with vectors as of some time ago.

Behaviours' vectors are as old as the candidates'. Candidates are told apart by how much happened to them lately: *fast*
ones had more events than the median candidate in the time named. Within either the candidates of a user are compared
among themselves.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from experiments.late import held_late, recent_events
from experiments.measured import Data, Measured, Report, Settings, Variant, about, interval, measured, on_logs
from experiments.record import band, legend, new_figure, section, span, table
from models.aif import AIF
from models.config import ModelConfig
from models.evaluation.bootstrap import Estimate, Paired
from models.evaluation.judged import Judged
from models.metrics import group_auc

__all__ = ["GROUPS", "compared", "figure", "label", "run", "tables"]

_HOUR: Final = 3_600_000
_DAY: Final = 24 * _HOUR
#: Ages by log, and the time before a candidate in which events make it fast.
AGES: Final = {
    "globo-news": (0, _HOUR, 6 * _HOUR, _DAY, 3 * _DAY),
    "online-retail-2": (0, _DAY, 7 * _DAY, 30 * _DAY, 90 * _DAY),
}
_LATELY: Final = {"globo-news": 6 * _HOUR, "online-retail-2": 30 * _DAY}
GROUPS: Final = ("all", "fast", "slow")
_CONFIG: Final = ModelConfig(long_behaviours=64)


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every age on every log."""
    logs = {}
    for name, data, of_log in on_logs(AGES, _CONFIG, settings, report):
        found = measured(data, {"AIF": Variant(lambda: AIF(_CONFIG))}, settings.seeds, of_log)
        recent = recent_events(data, _LATELY[name])
        fast = recent > np.median(recent)
        masks = {"all": np.ones(len(fast), dtype=np.bool_), "fast": fast, "slow": ~fast}
        held = {}
        for number, age_ms in enumerate(AGES[name]):
            of_log("reading older items", number, len(AGES[name]))
            held[age_ms] = held_late(data, item_age_ms=age_ms)
        rows = compared(found, held, data, masks)
        for row, (age_ms, each) in zip(rows, held.items(), strict=True):
            row |= {"age_ms": age_ms, "changed": _changed(data, each)}
        logs[name] = {**about(data, settings.seeds), "lately_ms": _LATELY[name], "rows": rows}
    return {"logs": logs}


def compared(
    found: Measured, held: dict[Any, Judged], data: Data, masks: dict[str, npt.NDArray[np.bool_]]
) -> list[dict[str, Any]]:
    """For every reading of the judged examples, GAUC within each mask of candidates and its difference to the first."""
    rows: list[dict[str, Any]] = [{} for _ in held]
    (models,) = found.models.values()
    scores = [[each.scores(model) for model in models] for each in held.values()]
    for group, mask in masks.items():
        users, labels = data.held.users[mask], data.held.labels[mask]
        weights = group_auc(users, labels, np.zeros(len(labels), dtype=np.float32))[2]
        paired = Paired(len(models), weights)
        first: Estimate | None = None
        for row, of_seeds in zip(rows, scores, strict=True):
            estimate = paired.estimate(np.stack([group_auc(users, labels, each[mask])[1] for each in of_seeds]))
            first = first or estimate
            row[group] = interval(estimate)
            row[f"{group}_difference"] = interval(estimate - first)
    return rows


def _changed(data: Data, late: Judged) -> float:
    """Share of the candidates whose vector is made of other inputs than it would be at once."""
    changed = []
    for fresh, old in zip(data.held.batches, late.batches, strict=True):
        inputs = [
            torch.cat((each.embedding, each.category.unsqueeze(-1), each.numeric), dim=-1)[each.candidates]
            for each in (fresh, old)
        ]  # [B, C, inputs]
        changed.append((inputs[0] != inputs[1]).any(-1)[fresh.weights > 0])
    return round(float(torch.cat(changed).float().mean()), 4)


def label(age_ms: int) -> str:
    """A time in its largest whole unit."""
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (60_000, "min")):
        if age_ms and age_ms % unit == 0:
            return f"{age_ms // unit} {name}"
    return f"{age_ms // 1000} s" if age_ms else "none"


def tables(found: dict[str, Any]) -> str:
    """A table a log."""
    head = ["age", "other inputs", "GAUC (95 %)", *(f"{group}: minus fresh (95 %)" for group in GROUPS)]
    parts = []
    for name, log in found["logs"].items():
        lines = [
            [
                label(row["age_ms"]), f"{100 * row['changed']:.0f} %", span(row["all"]),
                *("" if row is log["rows"][0] else span(row[f"{group}_difference"], "+.4f") for group in GROUPS),
            ]
            for row in log["rows"]
        ]  # fmt: skip
        lately = f"Fast: more events than the median candidate in the {label(log['lately_ms'])} before.\n\n"
        parts.append(section(name, log, lately + table(head, lines)))
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Difference to fresh vectors by age, of all, fast and slow candidates, a panel a log."""
    drawn, panels = new_figure(len(found["logs"]))
    for axes, (name, log) in zip(panels, found["logs"].items(), strict=True):
        rows = log["rows"]
        for place, group in enumerate(GROUPS):
            band(axes, [at + 0.06 * place for at in range(len(rows))], rows, f"{group}_difference", group, place)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(rows)), labels=[label(row["age_ms"]) for row in rows])
        axes.set(xlabel=f"age of item vectors ({name})", ylabel="GAUC minus fresh")
        legend(axes)
    return drawn
