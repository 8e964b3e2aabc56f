"""The number of bridges: quality and cost, what happens where quality stops rising, and what helps there.

Measured on AIF without its other views of behaviours (attention, linear DIN, tiers, hard search), which see the same
and would hide what bridges do; `aif experiment parts` says what bridges add beside them.

Three causes are told apart. *Redundant*: bridges point the same way (mean absolute cosine; effective rank, the
exponential of the entropy of the singular values' shares). *Idle*: items do not use them (the exponential of the mean
weights' entropy), or every item uses all alike, so that a_i says nothing of the item (the exponential of the items'
mean entropy, and the effective rank of the items' weights around their mean). *Over-fitted*: GAUC of trained examples
runs away from GAUC of judged ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.bridge_cures import Watched, choice, overlap
from experiments.measured import Data, Report, Settings, Variant, about, against, measured, on_logs
from experiments.record import COLOURS, band, legend, new_figure, section, span, table
from models.config import ModelConfig
from models.evaluation.judged import Judged, judged, spread
from models.metrics import gauc

__all__ = ["diagnosis", "effective_rank", "figure", "run", "tables", "variants"]

COUNTS: Final = (1, 2, 4, 8, 16, 24, 32, 50)
#: Where cures are tried: the most bridges of all, and one of them at the model's own number too.
_CURED: Final = COUNTS[-1]
_OWN: Final = ModelConfig.bridges
_CHOICE: Final = 0.2
_LITTLE_CHOICE: Final = 0.05
_DROPPED: Final = 0.25
_LENGTH: Final = 4.0
_NONE: Final = "none"
_LOGS: Final = ("planted", "online-retail-2")
_CONFIG: Final = ModelConfig(long_behaviours=64, attention=False, din="none", tiers=0, cross_categories=0)
#: Bridges begin to tell items apart late in a training: with the plan's planted examples some do not at all.
_MORE: Final = 2
#: Batches of judged examples whose items the weights are looked at for.
_LOOKED_AT: Final = 8


def variants(config: ModelConfig) -> dict[str, Variant]:
    """No bridges, every number of them, and the cures at the largest."""

    def of(count: int, dropped: float = 0.0, length: float = 1.0) -> Callable[[], nn.Module]:
        return lambda: Watched(replace(config, bridges=count), dropped, length)

    return {
        _NONE: Variant(lambda: Watched(replace(config, bea="none"))),
        **{str(count): Variant(of(count)) for count in COUNTS},
        f"{_CURED}, orthogonal": Variant(of(_CURED), overlap),
        f"{_CURED}, choosing": Variant(of(_CURED), choice(_CHOICE)),
        f"{_CURED}, choosing a little": Variant(of(_CURED), choice(_LITTLE_CHOICE)),
        f"{_CURED}, dropout": Variant(of(_CURED, dropped=_DROPPED)),
        f"{_CURED}, long": Variant(of(_CURED, length=_LENGTH)),
        f"{_OWN}, choosing": Variant(of(_OWN), choice(_CHOICE)),
    }


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every number and cure on every log, with what their trained models look like inside."""
    logs = {}
    for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report, more=_MORE):
        found = measured(data, variants(_CONFIG), settings.seeds, of_log)
        trained_on = judged(data.log, data.batches, spread(data.known, len(data.tail) // 2))
        rows = against(found, _NONE)
        for row in rows:
            models = found.models[row["name"]]
            each = [diagnosis(model, data, trained_on) for model in models]
            row["seen_minus_judged"] = round(
                float(np.mean([one.pop("seen") for one in each])) - row["gauc"]["value"], 6
            )
            if row["name"] != _NONE:
                row |= {key: round(float(np.mean([one[key] for one in each])), 4) for key in each[0]}
        logs[name] = {**about(data, settings.seeds), "rows": rows}
    return {"logs": logs}


def diagnosis(model: nn.Module, data: Data, trained_on: Judged) -> dict[str, float]:
    """What a trained model's bridges look like, and its GAUC of trained examples (`seen`)."""
    assert isinstance(model, Watched)
    scores = trained_on.scores(model)
    with torch.inference_mode():
        bridges = torch.nn.functional.normalize(model.tower.bridges, dim=-1)
        batches = data.held.batches[:_LOOKED_AT]
        weights = torch.cat([model.tower(*each.items)[1] for each in batches])  # [U, n]
        categories = torch.cat([each.category for each in batches])  # [U]
        count = len(bridges)
        apart = ~torch.eye(count, dtype=torch.bool)
        return {
            "seen": gauc(trained_on.users, trained_on.labels, scores),
            "cosine": float((bridges @ bridges.T)[apart].abs().mean()) if count > 1 else 1.0,
            "rank": effective_rank(bridges),
            "used": _spread(weights.mean(0, keepdim=True)),
            "used_by_an_item": _spread(weights),
            "weights_rank": effective_rank(weights - weights.mean(0)) if count > 1 else 0.0,
            "of_category": _between(weights, categories),
        }


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values' shares: n where all are equal, 1 where one is all."""
    values = torch.linalg.svdvals(rows.double())
    return _spread((values / values.sum().clamp(min=1e-30)).unsqueeze(0))


def _spread(shares: Tensor) -> float:
    """exp of the mean entropy of rows of shares: how many parts they are spread over."""
    return float(torch.exp(-(shares * torch.log(shares.clamp(min=1e-30))).sum(-1).mean()))


def _between(rows: Tensor, groups: Tensor) -> float:
    """Share of the rows' variance that lies between groups: 1 where rows of a group are equal; 0 where all rows are."""
    _, group = torch.unique(groups, return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1, rows.shape[1]).index_add_(0, group, rows)
    means = sums / torch.bincount(group).unsqueeze(-1)
    total = (rows - rows.mean(0)).square().sum()
    return float((means[group] - rows.mean(0)).square().sum() / total.clamp(min=1e-30))


_COLUMNS: Final = {
    "cosine": "mean abs. cosine", "rank": "effective rank", "used": "bridges in use", "used_by_an_item": "by one item",
    "weights_rank": "rank of weights", "of_category": "by category",
}  # fmt: skip


def tables(found: dict[str, Any]) -> str:
    """A table a log."""
    parts = [
        "*Bridges in use* and *by one item*: over how many bridges the items' mean weights, and an item's own, are "
        "spread (exp of the entropy). *Rank of weights*: effective rank of the items' weights around their mean. "
        "*By category*: share of the weights' variance that lies between categories (the planted log's topics; the "
        "shop has none). *Choosing*: a term of the loss for mutual information of items and bridges, weighed "
        f"{_CHOICE:g} (a little: {_LITTLE_CHOICE:g}). *Long*: bridges start {_LENGTH:g} times as long. *Dropout*: "
        f"{100 * _DROPPED:.0f} % of the bridges left out in each step. The weights were chosen on seed 1.\n\n"
        "*Seen - judged*: GAUC of trained examples minus GAUC of judged ones, which differ in kind as well, so that "
        "only its change down the table says anything.\n"
    ]
    head = ["bridges", "GAUC (95 %)", "minus no bridges (95 %)", "online MACs", "seen - judged", *_COLUMNS.values()]
    for name, log in found["logs"].items():
        lines = [
            [
                row["name"], span(row["gauc"]), "" if row["name"] == _NONE else span(row["difference"], "+.4f"),
                f"{row['online_multiply_adds']:,}", f"{row['seen_minus_judged']:+.4f}",
                *(f"{row[key]:.2f}" if key in row else "" for key in _COLUMNS),
            ]
            for row in log["rows"]
        ]  # fmt: skip
        parts.append(section(name, log, table(head, lines)))
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Quality, redundancy and use, and over-fitting, by the number of bridges; cures beside the largest."""
    drawn, panels = new_figure(3)
    quality, inside, fit = panels
    for place, (name, log) in enumerate(found["logs"].items()):
        plain = [row for row in log["rows"] if row["name"].isdigit()]
        cured = [row for row in log["rows"] if "," in row["name"]]
        counts = [int(row["name"]) for row in plain]
        band(quality, counts, plain, "difference", name, place)
        for offset, row in enumerate(cured):
            at = _CURED * 1.15 * 1.12**offset if row["name"].startswith(str(_CURED)) else _OWN
            label = row["name"] if not place else None
            quality.plot([at], [row["difference"]["value"]], "sPD^v*"[offset], color=COLOURS[place], label=label)
        inside.plot(counts, [row["rank"] for row in plain], "o-", color=COLOURS[place], label=f"rank, {name}")
        inside.plot(counts, [row["used"] for row in plain], "s--", color=COLOURS[place], label="in use")
        inside.plot(counts, [row["weights_rank"] for row in plain], "^:", color=COLOURS[place], label="rank of weights")
        fit.plot(counts, [row["seen_minus_judged"] for row in plain], "o-", color=COLOURS[place], label=name)
    quality.axhline(0, color="black", linewidth=0.8)
    for axes, label in zip(
        panels, ("GAUC minus no bridges", "effective number", "GAUC seen minus judged"), strict=True
    ):
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS, labels=[str(count) for count in COUNTS])
        axes.set(xlabel="bridges", ylabel=label)
        legend(axes)
    return drawn
