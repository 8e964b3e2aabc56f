"""`aif experiment`: one question about the model, measured: a figure and a table."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from schemas.errors import BadInput

__all__ = ["command"]


@click.command(
    "experiment",
    epilog="""\b
Examples:
  aif experiment list                              the questions
  aif experiment neighbours                        measure one: its table here, its files under build/experiments
  aif experiment bridges --small                   a look, in a minute or two
  aif experiment parts --out docs/experiments      make the recorded page anew
""",
)
@click.argument("name")
@click.option("--seeds", type=click.IntRange(2), default=3, show_default=True, help="Trainings of every variant.")
@click.option("--small", is_flag=True, help="An eighth of the data and two seeds: wide intervals, for a look.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/experiments"), show_default=True,
    help="Folder for NAME.json, NAME.md and NAME.png.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line instead of tables.")
def command(name: str, seeds: int, small: bool, out: Path, as_json: bool) -> None:
    """Answer the question NAME by measuring; `list` prints the questions.

    Needs a checkout and the packages of extra [experiments]. docs/experiments holds what was found so far.
    """
    _find_checkout()
    if importlib.util.find_spec("experiments") is None:
        raise BadInput("the experiments belong to a checkout and are not installed: run this in one")
    from experiments.catalogue import QUESTIONS

    if name == "list":
        width = max(map(len, QUESTIONS))
        for each, question in QUESTIONS.items():
            click.echo(f"{each:{width}}  {question}")
        return
    if name not in QUESTIONS:
        raise BadInput(f"no experiment {name!r}; there are {', '.join(QUESTIONS)}")
    if missing := [each for each in ("torch", "matplotlib", "PIL") if importlib.util.find_spec(each) is None]:
        raise BadInput(
            f"{', '.join(missing)} cannot be imported: `pip install -e '.[train,experiments]'` in a checkout"
        )
    from experiments.record import page, write

    found = _run(name, 2 if small else seeds, small, quiet=as_json)
    write(name, found, out)
    click.echo(json.dumps(found) if as_json else page(name, found), nl=as_json)


def _run(name: str, seeds: int, small: bool, quiet: bool) -> dict[str, Any]:
    """The experiment's numbers, with how they were made."""
    from rich.console import Console

    from cli.train import _bars
    from experiments.catalogue import load
    from experiments.measured import Settings, machine

    started = time.monotonic()
    with _bars(Console(stderr=True, quiet=quiet and not sys.stderr.isatty())) as bars:
        task = bars.add_task(name, total=None)

        def report(what: str, done: int, of: int) -> None:
            bars.update(task, description=f"{name}, {what}", completed=done, total=of)

        found = load(name).run(Settings(seeds, small), report)
    return {
        "command": f"aif experiment {name}" + (" --small" if small else f" --seeds {seeds}"),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "machine": machine(),
        **found,
    }


def _find_checkout() -> None:
    """The experiments are not installed; the console script does not look in the checkout by itself."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "experiments" / "catalogue.py").is_file() and str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
