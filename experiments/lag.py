"""Nearline lag: what users did is known late, in their own state, in items' activity, or in both.

The model is trained on what is known at once and judged with what would be known under the lag.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from experiments.late import held_late
from experiments.measured import Report, Settings, Variant, about, measured, on_logs
from experiments.record import band, legend, new_figure, section, span, table
from experiments.staleness import compared, label
from models.aif import AIF
from models.config import ModelConfig

__all__ = ["SIDES", "figure", "run", "tables"]

_MINUTE: Final = 60_000
LAGS: Final = (0, _MINUTE, 10 * _MINUTE, 60 * _MINUTE, 6 * 60 * _MINUTE, 24 * 60 * _MINUTE)
SIDES: Final = {"users": (0, 1), "items": (1, 0), "both": (1, 1)}  #: what is late: items, users
_LOGS: Final = ("globo-news", "online-retail-2")
_CONFIG: Final = ModelConfig(long_behaviours=64)


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every lag of either side and of both, on every log."""
    logs = {}
    for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report):
        found = measured(data, {"AIF": Variant(lambda: AIF(_CONFIG))}, settings.seeds, of_log)
        every = {"all": np.ones(len(data.held.labels), dtype=np.bool_)}
        rows: list[dict[str, Any]] = [{"lag_ms": lag_ms} for lag_ms in LAGS]
        for number, (side, (items, users)) in enumerate(SIDES.items()):
            of_log(f"reading late {side}", number, len(SIDES))
            held = {lag_ms: held_late(data, items * lag_ms, users * lag_ms) for lag_ms in LAGS}
            for row, measures in zip(rows, compared(found, held, data, every), strict=True):
                row |= {side: measures["all"], f"{side}_difference": measures["all_difference"]}
        logs[name] = {**about(data, settings.seeds), "rows": rows}
    return {"logs": logs}


def tables(found: dict[str, Any]) -> str:
    """A table a log."""
    head = ["lag", "GAUC, both late (95 %)", *(f"{side} late: minus no lag (95 %)" for side in SIDES)]
    parts = []
    for name, log in found["logs"].items():
        lines = [
            [
                label(row["lag_ms"]), span(row["both"]),
                *("" if row is log["rows"][0] else span(row[f"{side}_difference"], "+.4f") for side in SIDES),
            ]
            for row in log["rows"]
        ]  # fmt: skip
        parts.append(section(name, log, table(head, lines)))
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Difference to no lag, a panel a log."""
    drawn, panels = new_figure(len(found["logs"]))
    for axes, (name, log) in zip(panels, found["logs"].items(), strict=True):
        rows = log["rows"]
        for place, side in enumerate(SIDES):
            band(
                axes, [at + 0.06 * place for at in range(len(rows))], rows, f"{side}_difference", f"{side} late", place
            )
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(rows)), labels=[label(row["lag_ms"]) for row in rows])
        axes.set(xlabel=f"lag ({name})", ylabel="GAUC minus no lag")
        legend(axes)
    return drawn
