"""`aif evaluate`: how good the cheap model is beside the dear one, as last recorded or measured anew."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
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


class _Asked(NamedTuple):
    """What the command line says of a new run."""

    seeds: int
    epochs: int
    trained: int | None
    sizes: tuple[str, ...]
    small: bool
    out: Path | None

    def command(self, log: str) -> str:
        """The command that makes a log's record again."""
        return (
            f"aif evaluate --run --log {log}"
            + (" --small" if self.small else f" --seeds {self.seeds}")
            + (f" --epochs {self.epochs}" if self.epochs > 1 else "")
            + (f" --trained {self.trained}" if self.trained else "")
            + "".join(f" --size {each}" for each in self.sizes)
        )


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
@click.option(
    "--epochs", type=click.IntRange(1), default=1, show_default=True, help="Passes of every training over the examples"
)
@click.option("--trained", type=click.IntRange(2), help="Train on at most so many examples of each log")
@size_option
@click.option("--small", is_flag=True, help="A tenth of the examples and two seeds: minutes, and wide intervals")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a JSON file per log and results.md there; until then, finished seeds, with which a stopped run goes on",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and no progress")
def command(
    run: bool, logs: tuple[str, ...], seeds: int, epochs: int, trained: int | None, sizes: tuple[str, ...],
    small: bool, out: Path | None, as_json: bool,
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
      aif evaluate --run --log planted --epochs 3 --out docs/evaluation
      aif evaluate --run --log online-retail-2 --size signature_bits=256 --size tiers=16 --size din=none
    """
    from models.evaluation.summary import over_logs, text

    if run:
        asked = _Asked(2 if small else seeds, epochs, trained, sizes, small, out)
        measured = _measured(logs or tuple(LOGS), asked, quiet=as_json)
    elif small or out or trained or sizes or epochs > 1:
        raise BadInput("--small, --epochs, --trained, --size and --out belong to a new run: add --run")
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
        return json.loads(json.dumps(ModelConfig(**log["sizes"]).dimensions.written()))  # as a record has them: lists

    if older := [name for name, log in measured.items() if log["dimensions"] != now(log)]:
        click.echo(
            f"aif: {', '.join(older)}: recorded with other model inputs or sizes than this build's; measure again with "
            "`aif evaluate --run --out docs/evaluation`",
            err=True,
        )


def _measured(logs: tuple[str, ...], asked: _Asked, quiet: bool) -> dict[str, dict[str, Any]]:
    os.environ.setdefault(*_LARGE_PAGES)
    from rich.console import Console

    from cli.train import _bars

    results = {}
    lines = _Lines(wanted=not quiet and not sys.stderr.isatty())
    with _bars(Console(stderr=True, quiet=not sys.stderr.isatty())) as bars:
        for name in logs:
            task = bars.add_task(f"{name}: reading", total=None)

            def show(what: str, at: Any, task: Any = task, name: str = name) -> None:
                bars.update(task, description=f"{name}, {what}", completed=at.step, total=at.steps)
                lines.say(f"{name}, {what}: step {at.step} of {at.steps}")

            results[Path(name).stem] = _measured_on(name, asked, show)
    return results


def _measured_on(name: str, asked: _Asked, show: Any) -> dict[str, Any]:
    """One log's record."""
    import platform

    import torch

    from models.baselines.parts import BaselineConfig
    from models.config import ModelConfig
    from models.config import sizes as parsed
    from models.device import best_device
    from models.evaluation.contest import ContestOptions, contest
    from models.evaluation.summary import summary
    from models.fitting import Budget

    started, plan, size = time.monotonic(), LOGS.get(name, _OTHER), _SMALL if asked.small else 1
    sizes = parsed(asked.sizes)
    config = ModelConfig(**sizes)
    log, truth = _opened(name, config)
    options = ContestOptions(
        seeds=tuple(range(1, asked.seeds + 1)), budget=Budget(epochs=asked.epochs, batch_size=128),
        max_examples=plan.examples // size, held_out=plan.held_out, trained=asked.trained or plan.trained // size,
        judged=plan.judged // size, queries=64 // size, device=best_device(),
    )  # fmt: skip
    found = contest(log, config, BaselineConfig(), options, show, truth, asked.out and _seeds_of(asked.out, name))
    where = "1 thread" if options.device == "cpu" else options.device
    return {
        "command": asked.command(name),
        "seeds": list(options.seeds),
        "minutes": round((time.monotonic() - started + found.earlier_s) / 60, 1),
        "sizes": sizes,
        "dimensions": config.dimensions.written(),
        "machine": f"{platform.machine()}, torch {torch.__version__}, {where}",
        **summary(found),
    }


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


def _seeds_of(out: Path, log: str) -> Path:
    """Where finished seeds of a log are kept until its record is written."""
    return out / f".{Path(log).stem}.seeds"


def _write(measured: dict[str, dict[str, Any]], out: Path) -> None:
    """A file per log, and the tables of all logs that the folder now holds. Kept seeds have then served."""
    from models.evaluation.summary import over_logs, text

    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, found in measured.items():
            (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / _TABLES).write_text(text(over_logs(_recorded(out))))
        for name in measured:
            shutil.rmtree(_seeds_of(out, name), ignore_errors=True)
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error}; choose another folder with --out") from error
