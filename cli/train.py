"""`aif train`: from a log to an artifact folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from cli.options import data_dir_option, size_option
from schemas.errors import BadInput

__all__ = ["command"]

#: Records that decide what a model was trained on and what it is served with.
_SCHEMAS = ("item_row", "item_update", "n2o_row", "user_event", "user_head")


@click.command()
@click.option("--dataset", required=True, metavar="NAME", help="A shipped mapping's name, or a mapping file")
@click.option("--path", type=click.Path(path_type=Path), help="Folder of the data set's files, or its file of events")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of artifacts  [default: DATA_DIR/artifacts]"
)
@click.option("--seed", type=int, default=1, show_default=True, help="Equal seeds give equal versions on one machine")
@click.option("--epochs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--max-examples", type=click.IntRange(2), help="Use only the newest so many examples")
@click.option("--strict", is_flag=True, help="Stop at the first malformed row instead of leaving it out")
@click.option("--limit", type=click.IntRange(1), help="Read only the first so many user events")
@click.option(
    "--distill",
    type=click.FloatRange(0, 1),
    default=0.0,
    is_flag=False,
    flag_value=0.5,
    metavar="[SHARE]",
    help="Train the full ranker first, and learn its chances in this share; alone: 0.5",
)
@click.option(
    "--align",
    type=click.FloatRange(0),
    default=0.0,
    is_flag=False,
    flag_value=1.0,
    metavar="[WEIGHT]",
    help="Train the full ranker first, and learn its order with this weight; alone: 1",
)
@click.option(
    "--choose-bridges",
    type=click.FloatRange(0),
    default=0.0,
    is_flag=False,
    flag_value=0.05,
    metavar="[WEIGHT]",
    help="Press items to choose among the bridges, with this weight; alone: 0.05 (docs/experiments/bridges.md)",
)
@size_option
@click.option(
    "--calibrate/--no-calibrate", default=True, help="Fold a slope and offset of the held-out tail into the head"
)
@click.option(
    "--state", type=click.Path(path_type=Path, dir_okay=False), help="Also write the weights, for `aif artifact export`"
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train; auto: CUDA if there"
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="torch threads; idle cores only")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and no progress")
@data_dir_option
def command(
    dataset: str,
    path: Path | None,
    out: Path | None,
    seed: int,
    epochs: int,
    max_examples: int | None,
    strict: bool,
    limit: int | None,
    distill: float,
    align: float,
    choose_bridges: float,
    sizes: tuple[str, ...],
    calibrate: bool,
    state: Path | None,
    device: Any,
    threads: int,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Train a model on a log and write it as an artifact folder, named by its version.

    The newest tenth of the examples is held out and judged; its metrics are printed and kept in the manifest, beside
    the data's window, every option, the code's version and the fingerprints of the records' schemas.

    \b
    Examples:
      aif train --dataset online-retail-2 --limit 70000
      aif train --dataset kuairand-exposures --epochs 3 --seed 7
      aif train --dataset online-retail-2 --distill --align 0.5
      AIF_SIGNATURE_BITS=256 aif train --dataset online-retail-2 --size tiers=16 --size din=none
      aif train --dataset my-mapping.json --path logs/ --out artifacts/ --json
    """
    from dataclasses import asdict, replace

    from rich.console import Console

    from cli.code_version import code_version
    from models.config import DEPLOYMENTS_SIZES, ModelConfig
    from models.config import sizes as parsed
    from models.device import best_device
    from models.export import export
    from models.log import Log
    from models.state import save_state
    from models.training import Progress, TrainingOptions, train
    from producers.datasets import open_dataset
    from schemas.codec import codec
    from schemas.deployment import Deployment

    deployment = Deployment.from_env(os.environ, data_dir=data_dir)
    asked = parsed(sizes)
    if fixed := [name for name in asked if name in DEPLOYMENTS_SIZES]:
        raise BadInput(f"{fixed[0]} is the deployment's, which workers share: set it by its AIF_* variable, not --size")
    config = replace(ModelConfig.of(deployment), **asked)
    source = open_dataset(dataset, path, limit=limit, strict=strict, embedding_dim=config.embedding_dim)
    source.rejects_path = deployment.data_dir / "train" / f"{source.mapping.name}.rejects.jsonl"
    options = TrainingOptions(
        seed=seed, epochs=epochs, max_examples=max_examples, threads=threads, distill=distill, align=align,
        choose_bridges=choose_bridges, calibrate=calibrate, device=best_device() if device == "auto" else device,
    )  # fmt: skip
    with _bars(Console(stderr=True, quiet=as_json and not sys.stderr.isatty())) as bars:
        reading = bars.add_task("reading", total=limit)
        log = Log.of(_counted(source.entries(), lambda count: bars.update(reading, completed=count)), config)
        bars.update(reading, total=len(log.events), completed=len(log.events))
        if left_out := source.counts.rejected:
            click.echo(f"aif: {left_out:,} malformed rows are left out: {source.rejects_path}", err=True)
        training = bars.add_task("training", total=None)

        def show(at: Progress) -> None:
            what = f"training the {at.model}, loss {at.loss:.4f}"
            bars.update(training, description=what, completed=at.step, total=at.steps)

        trained = train(log, config, options, show)
    about: dict[str, Any] = {
        "dataset": source.mapping.name,
        "events": len(log.events),
        "malformed_rows": source.counts.rejected,
        "first_event_ms": int(log.events.time_ms[0]),
        "last_event_ms": int(log.events.time_ms[-1]),
        "trained_from_ms": trained.trained_from_ms,
        "judged_from_ms": trained.judged_from_ms,
        **asdict(options),
        "sizes": asked,
        "calibration": trained.calibration and asdict(trained.calibration),
        "code": code_version(),
        "schemas": {name: codec(name).fingerprint.hex() for name in _SCHEMAS},
        "metrics": {name: _plain(value) for name, value in trained.metrics.items()},
    }
    exported = export(trained.model, about, out or deployment.data_dir / "artifacts")
    if state:
        save_state(state, trained.model, about)
    result = {"version": exported.manifest.version, "folder": str(exported.folder), **about["metrics"]}
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name:<16} {value}")


def _bars(console: Any) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip


def _counted(entries: Iterable[tuple[str, Any]], show: Any, every: int = 5000) -> Iterator[tuple[str, Any]]:
    """The entries, with the number of user events among them shown now and then."""
    users = 0
    for entry in entries:
        users += entry[0] == "user"
        if users % every == 0:
            show(users)
        yield entry


def _plain(value: float) -> float | int | None:
    """Rounded for people; None for a metric that the data did not allow (JSON has no nan)."""
    if value != value:
        return None
    return value if isinstance(value, int) else round(value, 6)
