"""`aif evaluate`: how good the cheap model is beside the dear one, as last recorded or measured anew."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from cli.options import size_option
from schemas.errors import BadInput

__all__ = ["LOGS", "command"]

#: Recorded runs, one JSON file a log, in the project; an installation without documents has none.
_RECORDED: Final = Path(__file__).resolve().parents[1] / "docs" / "evaluation"
_TABLES: Final = "results.md"
_PLANTED: Final = "planted"


class _Plan(NamedTuple):
    """What is used of a log: its newest examples, the share of them that is judged, and how many are used of each."""

    examples: int
    held_out: float
    trained: int
    judged: int


#: The logs of the verdict. The planted log's judged part is each user's last page, 16,000 impressions.
LOGS: Final = {
    "kuairand-exposures": _Plan(200_000, 0.25, 40_000, 20_000),
    "online-retail-2": _Plan(300_000, 0.2, 12_000, 6_000),
    _PLANTED: _Plan(80_000, 0.2, 64_000, 16_000),
}
#: Another log, named with --log.
_OTHER: Final = _Plan(300_000, 0.2, 12_000, 6_000)
#: --small divides the examples by this.
_SMALL: Final = 10
#: Off a terminal, a line of progress at most so often.
_SAY_EVERY_S: Final = 20.0
#: Asks torch to keep tensors of megabytes in large pages. A step of training allocates hundreds of them, and touching
#: each small page for the first time took a third of it. Read by torch at its first allocation.
_LARGE_PAGES: Final = ("THP_MEM_ALLOC_ENABLE", "1")


@click.command()
@click.option(
    "--run", is_flag=True, help="Train and judge every model again (about an hour on one core; see --trained)"
)
@click.option("--log", "logs", multiple=True, metavar="NAME", help="Only this data set or `planted`; repeat for more")
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True, help="Trainings of every model")
@click.option("--trained", type=click.IntRange(2), help="Train on at most so many examples of each log")
@size_option
@click.option("--small", is_flag=True, help="A tenth of the examples and two seeds: minutes, and wide intervals")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write a JSON file per log and results.md there"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and no progress")
def command(
    run: bool, logs: tuple[str, ...], seeds: int, trained: int | None, sizes: tuple[str, ...], small: bool,
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare AIF with popularity, two towers, COLD, DIN, ETA and the full ranker, on the same data and budget.

    Prints the last recorded run; --run makes it again. `gap_recovered` is (AIF - two towers) / (ranker - two towers) in
    GAUC: per log, and on top the smallest over the logs. docs/model.md defines every figure.

    \b
    Examples:
      aif evaluate
      aif evaluate --json | jq .gap_recovered
      aif evaluate --run --out docs/evaluation
      aif evaluate --run --small --log planted
      aif evaluate --run --log online-retail-2 --size signature_bits=256 --size tiers=16 --size din=none
    """
    from models.evaluation.summary import over_logs, text

    if run:
        measured = _measured(logs or tuple(LOGS), 2 if small else seeds, trained, sizes, small, quiet=as_json)
    elif small or out or trained or sizes:
        raise BadInput("--small, --trained, --size and --out belong to a new run: add --run")
    else:
        measured = _recorded(_RECORDED)
        if missing := set(logs) - set(measured):
            raise BadInput(f"no recorded evaluation of {', '.join(sorted(missing))}: measure with `aif evaluate --run`")
        measured = {name: measured[name] for name in logs or measured}
        _warn_of_older_models(measured)
    if out:
        _write(measured, out)
    found = over_logs(measured)
    click.echo(json.dumps(found) if as_json else text(found), nl=as_json)


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """The recorded logs of a folder: those of the verdict first, in their order."""
    names = sorted(
        (path.stem for path in folder.glob("*.json")), key=lambda name: (name not in LOGS, [*LOGS, name].index(name))
    )
    if not names:
        raise BadInput(f"no recorded evaluation in {folder}: measure with `aif evaluate --run`")
    return {name: json.loads((folder / f"{name}.json").read_bytes()) for name in names}


def _warn_of_older_models(measured: dict[str, dict[str, Any]]) -> None:
    """Say on stderr which logs were recorded with a model of other inputs or sizes than this build's; those that the
    run asked for (--size) are not meant."""
    from models.config import ModelConfig

    def now(log: dict[str, Any]) -> Any:
        return json.loads(json.dumps(asdict(ModelConfig(**log["sizes"]).dimensions)))  # as a record has them: lists

    if older := [name for name, log in measured.items() if log["dimensions"] != now(log)]:
        click.echo(
            f"aif: {', '.join(older)}: recorded with other model inputs or sizes than this build's; measure again with "
            "`aif evaluate --run --out docs/evaluation`",
            err=True,
        )


def _measured(
    logs: tuple[str, ...], seeds: int, trained: int | None, sizes: tuple[str, ...], small: bool, quiet: bool
) -> dict[str, dict[str, Any]]:
    import platform

    os.environ.setdefault(*_LARGE_PAGES)
    import torch
    from rich.console import Console

    from cli.train import _bars
    from models.baselines.parts import BaselineConfig
    from models.config import ModelConfig
    from models.config import sizes as parsed
    from models.evaluation.contest import ContestOptions, contest
    from models.evaluation.summary import summary

    asked = parsed(sizes)
    config, results, size = ModelConfig(**asked), {}, _SMALL if small else 1
    lines = _Lines(wanted=not quiet and not sys.stderr.isatty())
    with _bars(Console(stderr=True, quiet=not sys.stderr.isatty())) as bars:
        for name in logs:
            started, plan = time.monotonic(), LOGS.get(name, _OTHER)
            task = bars.add_task(f"{name}: reading", total=None)
            log, truth = _opened(name, config)
            options = ContestOptions(
                seeds=tuple(range(1, seeds + 1)), max_examples=plan.examples // size, held_out=plan.held_out,
                trained=trained or plan.trained // size, judged=plan.judged // size, queries=64 // size,
            )  # fmt: skip

            def show(what: str, at: Any, task: Any = task, name: str = name) -> None:
                bars.update(task, description=f"{name}, {what}", completed=at.step, total=at.steps)
                lines.say(f"{name}, {what}: step {at.step} of {at.steps}")

            found = summary(contest(log, config, BaselineConfig(), options, show, truth))
            results[Path(name).stem] = {
                "command": f"aif evaluate --run --log {name}"
                + (" --small" if small else f" --seeds {seeds}")
                + (f" --trained {trained}" if trained else "")
                + "".join(f" --size {each}" for each in sizes),
                "seeds": list(options.seeds),
                "minutes": round((time.monotonic() - started) / 60, 1),
                "sizes": asked,
                "dimensions": asdict(config.dimensions),
                "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread",
                **found,
            }
    return results


class _Lines:
    """Progress where no terminal shows bars: a line on stderr now and then."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._next_s = 0.0

    def say(self, what: str) -> None:
        """Print it, unless something was printed lately."""
        if self._wanted and time.monotonic() >= self._next_s:
            click.echo(f"aif: {what}", err=True)
            self._next_s = time.monotonic() + _SAY_EVERY_S


def _opened(name: str, config: Any) -> tuple[Any, Any]:
    """A log, and the true chances of its examples where it is the planted one."""
    from models.log import Log
    from models.planted_log import planted_log
    from producers.datasets import open_dataset

    if name == _PLANTED:
        planted = planted_log(seed=1)
        return Log.of(planted.entries, config), planted.probabilities
    return Log.of(open_dataset(name, embedding_dim=config.embedding_dim).entries(), config), None


def _write(measured: dict[str, dict[str, Any]], out: Path) -> None:
    """A file per log, and the tables of all logs that the folder now holds."""
    from models.evaluation.summary import over_logs, text

    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, found in measured.items():
            (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / _TABLES).write_text(text(over_logs(_recorded(out))))
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error}; choose another folder with --out") from error
