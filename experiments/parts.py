"""AIF without each of its parts, trained anew without it: what the part adds, and what it costs online.

A part of the head is left out by its flag of ModelConfig. A piece of the user encoder costs nothing online; it is left
out by zeros where the encoder would mix it in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.measured import Report, Settings, Variant, about, against, measured, on_logs
from experiments.record import COLOURS, columns, new_figure, section, span, table
from models.aif import AIF
from models.config import ModelConfig

__all__ = ["figure", "run", "tables", "variants"]

_WHOLE: Final = "AIF"
_LOGS: Final = ("planted", "online-retail-2")
#: Behaviours read in training and judging: fewer than a served model's most, so that all variants train in minutes.
_CONFIG: Final = ModelConfig(long_behaviours=64)


def variants(config: ModelConfig) -> dict[str, Variant]:
    """The whole model and what is left without each part."""
    heads = {
        _WHOLE: config,
        "without bridges": replace(config, bea="none"),
        "without attention": replace(config, attention=False),
        "without linear DIN": replace(config, din="none"),
        "without tiers": replace(config, tiers=0),
        "without hard search": replace(config, cross_categories=0),
        "without attention, DIN and tiers": replace(config, attention=False, din="none", tiers=0),
    }
    found = {name: Variant(_maker(each)) for name, each in heads.items()}
    d = config.vector_dim
    pieces = {
        "without self-attention": slice(d, 2 * d),
        "without the profile's attention": slice(2 * d, 3 * d),
        "without the user vector": slice(0, 3 * d),
    }
    return found | {name: Variant(_maker(config, left_out)) for name, left_out in pieces.items()}


def _maker(config: ModelConfig, left_out: slice | None = None) -> Callable[[], nn.Module]:
    """Makes an AIF whose encoder mixes profile, self-attention and the profile's attention but for some columns."""

    def make() -> nn.Module:
        model = AIF(config)
        if left_out is not None:
            kept = torch.ones(3 * config.vector_dim)
            kept[left_out] = 0

            def without(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (inputs[0] * kept,)

            model.user.mix.register_forward_pre_hook(without)
        return model

    return make


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every variant on every log."""
    logs = {}
    for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report):
        found = measured(data, variants(_CONFIG), settings.seeds, of_log)
        logs[name] = {**about(data, settings.seeds), "rows": against(found, _WHOLE)}
    return {"logs": logs}


def tables(found: dict[str, Any]) -> str:
    """A table a log: every variant's GAUC, what it lacks to the whole model, and what leaving the part out saves."""
    parts = []
    for name, log in found["logs"].items():
        rows = log["rows"]
        whole = rows[0]["online_multiply_adds"]
        lines = [
            [
                row["name"], span(row["gauc"]), "" if row is rows[0] else span(row["difference"], "+.4f"),
                f"{row['online_multiply_adds']:,}", f"{100 * (1 - row['online_multiply_adds'] / whole):.1f} %",
            ]
            for row in rows
        ]  # fmt: skip
        head = ["model", "GAUC (95 %)", "difference (95 %)", "online MACs a candidate", "saved online"]
        parts.append(section(name, log, table(head, lines)))
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Differences to the whole model, a panel a log."""
    drawn, panels = new_figure(len(found["logs"]), width=4.8)
    for axes, (name, log) in zip(panels, found["logs"].items(), strict=True):
        rows = log["rows"][1:][::-1]
        values, below, above = columns(rows, "difference")
        axes.errorbar(values, range(len(rows)), xerr=[below, above], fmt="o", capsize=2, color=COLOURS[0])
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), labels=[row["name"].removeprefix("without ") for row in rows], fontsize=8)
        axes.set(xlabel=f"GAUC without it, minus AIF's ({name})")
    return drawn
