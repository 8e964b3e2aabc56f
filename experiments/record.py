"""What an experiment found, as files: NAME.json (the numbers), NAME.md (tables) and NAME.png (a figure) of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.catalogue import QUESTIONS, load
from schemas.errors import BadInput

__all__ = ["COLOURS", "band", "columns", "legend", "new_figure", "page", "section", "span", "table", "write"]

#: Distinguishable for colour-blind readers (Okabe and Ito).
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DOTS_PER_INCH: Final = 90


def page(name: str, found: dict[str, Any]) -> str:
    """The Markdown page of what an experiment found."""
    return (
        f"# {name}\n\n{QUESTIONS[name]}\n\nMade by `{found['command']}` in {found['minutes']} minutes "
        f"({found['machine']}). Numbers: [{name}.json]({name}.json).\n\n![{name}]({name}.png)\n\n"
        f"{load(name).tables(found)}"
    )


def write(name: str, found: dict[str, Any], out: Path) -> None:
    """Write the three files. Raises BadInput where the folder cannot be written."""
    image = io.BytesIO()
    load(name).figure(found).savefig(image, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / f"{name}.md").write_text(page(name, found))
        (out / f"{name}.png").write_bytes(image.getvalue())
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error}; choose another folder with --out") from error


def section(name: str, log: dict[str, Any], body: str) -> str:
    """What was found on a log, under how much of it was used (`measured.about`)."""
    return (
        f"## {name}\n\n{log['train_examples']:,} examples trained on, {log['judged_candidates']:,} candidates judged "
        f"({log['judged_positives']:,} positive; negatives: {log['negatives']}) of {log['users_with_auc']:,} users "
        f"with an AUC, {log['seeds']} seeds, the newest {log['behaviours']} behaviours.\n\n{body}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def span(each: dict[str, float | None], form: str = ".4f") -> str:
    """A number with its interval."""
    if each["value"] is None:
        return "none"
    return f"{each['value']:{form}} ({each['low']:{form}} to {each['high']:{form}})"


def new_figure(panels: int, width: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side; nothing of pyplot, which would keep it."""
    figure = Figure(figsize=(width * panels, 4.0), layout="constrained")
    axes = [figure.add_subplot(1, panels, place + 1) for place in range(panels)]
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def legend(axes: Axes) -> None:
    """What the panel's lines are, below it."""
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)


def columns(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float], list[float]]:
    """Values, and the lengths below and above them of their intervals, of rows that have each a number at `key`."""
    values = [row[key]["value"] for row in rows]
    below = [row[key]["value"] - row[key]["low"] for row in rows]
    return values, below, [row[key]["high"] - row[key]["value"] for row in rows]


def band(axes: Axes, x: Sequence[float], rows: Sequence[dict[str, Any]], key: str, label: str, place: int = 0) -> None:
    """A line of the rows' numbers with their intervals, in the colour of its place."""
    values, below, above = columns(rows, key)
    axes.errorbar(
        x, values, yerr=[below, above], marker="o", markersize=4, capsize=2, linewidth=1.2, label=label,
        color=COLOURS[place % len(COLOURS)],
    )  # fmt: skip
