"""The number of bridges: quality and cost, what happens where quality stops rising, and what helps there.

Measured on the whole AIF, and on AIF without its other views of behaviours (attention, linear DIN, tiers, hard search),
which may see the same and would hide what bridges do. Beside one half of those views at a time it shows which of them
sees what bridges see. Causes are told apart by what trained bridges look like inside (bridge_diagnosis.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.bridge_cures import Watched, choice, overlap
from experiments.bridge_diagnosis import COLUMNS, diagnosed
from experiments.measured import Data, Report, Settings, Variant, about, against, measured, on_logs
from experiments.record import COLOURS, band, legend, new_figure, section, span, table
from models.config import ModelConfig
from models.evaluation.judged import judged, spread

__all__ = ["CURVES", "figure", "run", "tables", "variants"]

COUNTS: Final = (1, 2, 4, 8, 16, 24, 32, 50)
#: Enough of a curve where a training takes longer.
_FEWER_COUNTS: Final = (1, 4, 16, 32, 50)
#: Where cures are tried: the most bridges of all, and the model's own number too.
_CURED: Final = COUNTS[-1]
_OWN: Final = ModelConfig.bridges
_CHOICE: Final = 0.2
_LITTLE_CHOICE: Final = 0.05
_DROPPED: Final = 0.25
_LENGTH: Final = 4.0
_NONE: Final = "none"
_LOGS: Final = ("planted", "online-retail-2")
_CONFIG: Final = ModelConfig(long_behaviours=64)
#: Bridges begin to tell items apart late in a training: with the plan's planted examples some do not at all.
_MORE: Final = 2

_ALONE: Final = "alone"
_WHOLE: Final = "beside all other parts"
_NO_SIMILARITY: Final[dict[str, Any]] = {"attention": False, "din": "none", "tiers": 0}
_NO_HARD_SEARCH: Final[dict[str, Any]] = {"cross_categories": 0}
#: What bridges stand beside, and what is left out of AIF for it.
CURVES: Final = {
    _WHOLE: {},
    _ALONE: _NO_SIMILARITY | _NO_HARD_SEARCH,
    "beside hard search": _NO_SIMILARITY,
    "beside attention, linear DIN and tiers": _NO_HARD_SEARCH,
}
#: How far beside its number of bridges a cure is drawn, and as what.
_MARKERS: Final = {
    "choosing a little": (1.12, "*"), "choosing": (1.19, "s"), "orthogonal": (1.26, "P"), "dropout": (1.34, "D"),
    "long": (1.42, "v"),
}  # fmt: skip


def variants(curve: str, config: ModelConfig) -> dict[str, Variant]:
    """What a curve compares: no bridges, numbers of them, and cures; all of both where bridges are alone."""
    config = replace(config, **CURVES[curve])

    def of(count: int, dropped: float = 0.0, length: float = 1.0) -> Callable[[], Watched]:
        return lambda: Watched(replace(config, bridges=count), dropped, length)

    def counted(counts: Sequence[int]) -> dict[str, Variant]:
        return {_NONE: none, **{str(count): Variant(of(count)) for count in counts}}

    none = Variant(lambda: Watched(replace(config, bea="none")))
    cured = {
        **{f"{count}, choosing a little": Variant(of(count), choice(_LITTLE_CHOICE)) for count in (_OWN, _CURED)},
        f"{_CURED}, choosing": Variant(of(_CURED), choice(_CHOICE)),
    }
    if curve == _WHOLE:
        return counted(_FEWER_COUNTS) | cured
    if curve != _ALONE:
        return counted((_OWN, _CURED)) | cured
    return counted(COUNTS) | cured | {
        f"{_OWN}, choosing": Variant(of(_OWN), choice(_CHOICE)),
        f"{_CURED}, orthogonal": Variant(of(_CURED), overlap),
        f"{_CURED}, dropout": Variant(of(_CURED, dropped=_DROPPED)),
        f"{_CURED}, long": Variant(of(_CURED, length=_LENGTH)),
    }  # fmt: skip


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every curve on every log, with what its trained models look like inside."""
    logs = {}
    for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report, more=_MORE):
        curves = {curve: _rows(curve, data, settings, of_log) for curve in CURVES}
        logs[name] = {**about(data, settings.seeds), "curves": curves}
    return {"logs": logs}


def _rows(curve: str, data: Data, settings: Settings, report: Report) -> list[dict[str, Any]]:
    def of_curve(what: str, done: int, of: int) -> None:
        report(f"{curve}, {what}", done, of)

    found = measured(data, variants(curve, _CONFIG), settings.seeds, of_curve)
    trained_on = judged(data.log, data.batches, spread(data.known, len(data.tail) // 2))
    rows = against(found, _NONE)
    for row in rows:
        models = cast(list[Watched], found.models[row["name"]])
        row |= diagnosed(models, data, trained_on, row["gauc"]["value"])
    return rows


def tables(found: dict[str, Any]) -> str:
    """A table of every curve, log by log."""
    parts = [
        "*Relied on*: GAUC that a trained model loses where every item gets the items' mean weights. *Bridges in use* "
        "and *by one item*: over how many bridges the items' mean weights, and an item's own, are spread (exp of the "
        "entropy). *Rank of weights*: effective rank of the items' weights around their mean. *By category*: share of "
        "the weights' variance that lies between categories (the planted log's topics; the shop has none). *Choosing*: "
        f"a term of the loss for mutual information of items and bridges, weighed {_CHOICE:g} (a little: "
        f"{_LITTLE_CHOICE:g}). *Long*: bridges start {_LENGTH:g} times as long. *Dropout*: {100 * _DROPPED:.0f} % of "
        "the bridges left out in each step. The weights were chosen on seed 1, alone.\n\n"
        "*Seen - judged*: GAUC of trained examples minus GAUC of judged ones, which differ in kind as well, so that "
        "only its change down the table says anything.\n"
    ]
    for name, log in found["logs"].items():
        body = "\n".join(f"Bridges {curve}:\n\n{_table(rows)}" for curve, rows in log["curves"].items())
        parts.append(section(name, log, body))
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    head = ["bridges", "GAUC (95 %)", "minus no bridges (95 %)", "online MACs", "seen - judged", *COLUMNS.values()]
    lines = [
        [
            row["name"], span(row["gauc"]), "" if row["name"] == _NONE else span(row["difference"], "+.4f"),
            f"{row['online_multiply_adds']:,}", f"{row['seen_minus_judged']:+.4f}",
            *(_number(key, row) for key in COLUMNS),
        ]
        for row in rows
    ]  # fmt: skip
    return table(head, lines)


def _number(key: str, row: dict[str, Any]) -> str:
    return "" if key not in row else f"{row[key]:+.4f}" if key == "relied_on" else f"{row[key]:.2f}"


def figure(found: dict[str, Any]) -> Figure:
    """What bridges add, alone and beside all other parts, with cures; what they look like inside; over-fitting."""
    drawn, panels = new_figure(4, width=5.4)
    alone, whole, inside, fit = panels
    for place, (name, log) in enumerate(found["logs"].items()):
        for axes, curve, line, of_curve in ((alone, _ALONE, "o-", ""), (whole, _WHOLE, "s--", ", beside all")):
            rows = log["curves"][curve]
            _gain(axes, rows, name, place)
            counts, plain = _plain(rows)
            fitted = [row["seen_minus_judged"] for row in plain]
            fit.plot(counts, fitted, line, color=COLOURS[place], label=f"{name}{of_curve}")
        counts, plain = _plain(log["curves"][_ALONE])
        for key, line, label in (("rank", "o-", "rank"), ("used", "s--", "in use"), ("weights_rank", "^:", "weights")):
            inside.plot(counts, [row[key] for row in plain], line, color=COLOURS[place], label=f"{label}, {name}")
    labels = (
        "alone: GAUC minus no bridges", "beside all: GAUC minus no bridges", "alone: effective number",
        "GAUC seen minus judged",
    )  # fmt: skip
    for axes, label in zip(panels, labels, strict=True):
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS, labels=[str(count) for count in COUNTS])
        axes.set(xlabel="bridges", ylabel=label)
        legend(axes)
    return drawn


def _gain(axes: Axes, rows: list[dict[str, Any]], name: str, place: int) -> None:
    """A curve against no bridges, and its cures beside it."""
    counts, plain = _plain(rows)
    band(axes, counts, plain, "difference", name, place)
    axes.axhline(0, color="black", linewidth=0.8)
    for row in rows:
        count, _, cure = row["name"].partition(", ")
        if cure:
            apart, marker = _MARKERS[cure]
            label = cure if not place and count == str(_CURED) else None
            axes.plot([int(count) * apart], [row["difference"]["value"]], marker, color=COLOURS[place], label=label)


def _plain(rows: list[dict[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
    """Numbers of bridges, and their rows, without cures."""
    plain = [row for row in rows if row["name"].isdigit()]
    return [int(row["name"]) for row in plain], plain
