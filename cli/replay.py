"""`aif replay`: a recorded log into Kafka, with progress, an end that can be resumed, and a summary."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import deployment_options
from schemas.deployment import Deployment

if TYPE_CHECKING:
    from producers.datasets import Dataset
    from producers.replay import Status, Summary

__all__ = ["command"]

#: A line this often where there is no terminal to draw on.
_LOG_EVERY_S = 5.0
_INTERRUPTED = 130


@click.command("replay")
@click.argument("dataset", metavar="DATASET")
@click.option(
    "--path", type=click.Path(path_type=Path, exists=True), help="Folder of the data files, or the event file."
)
@click.option("--speed", default="max", show_default=True, help="max, or times the log's own pace: 1x, 10x.")
@click.option("--from", "from_text", metavar="TIME", help="First event time: ISO 8601 (UTC) or Unix ms.")
@click.option("--to", "to_text", metavar="TIME", help="Event time to stop before.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many user events.")
@click.option("--rebase", type=click.Choice(["now"]), help="Move event times so that the log happens now.")
@click.option("--strict", is_flag=True, help="Stop at the first malformed row.")
@click.option(
    "--rejects", type=click.Path(path_type=Path, dir_okay=False), help="Where malformed rows go (JSON Lines)."
)
@click.option("--resume", is_flag=True, help="Go on where the last run of this data set was stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@deployment_options
def command(
    dataset: str,
    path: Path | None,
    speed: str,
    from_text: str | None,
    to_text: str | None,
    limit: int | None,
    rebase: str | None,
    strict: bool,
    rejects: Path | None,
    resume: bool,
    as_json: bool,
    deployment: Deployment,
) -> None:
    """Send a recorded log to item-updates and user-events.

    DATASET is the name of a shipped mapping (online-retail-sample needs no files) or a mapping file (.json).

    \b
    Examples:
      aif replay online-retail-sample
      aif replay online-retail-2 --path ~/data --speed 10x --from 2011-11-01
      aif replay kuairand-exposures --rebase now --json
      aif replay online-retail-sample --resume
    """
    from producers.datasets import open_dataset
    from producers.event_time import parse_cli_time
    from producers.pace import parse_speed
    from producers.replay import Options, replay

    opened = open_dataset(
        dataset,
        path,
        limit=limit,
        from_ms=parse_cli_time(from_text, "--from"),
        to_ms=parse_cli_time(to_text, "--to"),
        strict=strict,
        rejects=rejects,
        embedding_dim=deployment.embedding_dim,
    )
    if opened.rejects_path is None:
        opened.rejects_path = deployment.data_dir / "replay" / f"{opened.mapping.name}.rejects.jsonl"
    options = Options(parse_speed(speed), int(time.time() * 1000) if rebase else None, resume)
    with _stop_on_signals() as stop, _progress(opened) as report:
        summary = replay(opened, deployment, options, stop, report)
    click.echo(json.dumps(asdict(summary)) if as_json else _for_people(summary, opened))
    if not summary.complete:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        click.echo(f"stopped; go on with: aif {' '.join(again)} --resume", err=True)
        sys.exit(_INTERRUPTED)


def _for_people(summary: Summary, dataset: Dataset) -> str:
    from producers.event_time import time_text

    lines = [
        f"{summary.dataset}: {summary.events:,} events and {summary.items:,} item updates in {summary.seconds:.1f} s "
        f"({summary.rate_per_s:,.0f}/s), event time {time_text(summary.newest_event_time_ms)} UTC"
    ]
    if summary.skipped:
        lines.append(f"{summary.skipped:,} records of earlier runs were not sent again")
    if summary.rejects:
        lines.append(f"{summary.rejects:,} malformed rows: {dataset.rejects_path}")
    return "\n".join(lines)


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM ask for an orderly end; a second one ends at once."""
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _progress(dataset: Dataset) -> Iterator[Any]:
    """A function that shows a Status: a bar on a terminal, a line every few seconds elsewhere; always on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal and sys.stdout.isatty()):
        yield _line_writer()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(dataset.mapping.name, total=dataset.estimated_rows, what="")

        def show(status: Status) -> None:
            bar.update(task, completed=status.rows, what=status.note or _describe(status))

        yield show


def _line_writer() -> Any:
    shown_at_s = [time.monotonic()]

    def show(status: Status) -> None:
        if status.note or time.monotonic() - shown_at_s[0] >= _LOG_EVERY_S:
            shown_at_s[0] = time.monotonic()
            click.echo(status.note or _describe(status), err=True)

    return show


def _describe(status: Status) -> str:
    from producers.event_time import time_text

    per_s = (status.events + status.items) / max(status.seconds, 0.001)
    return f"{status.events:,} events, {status.items:,} items, {per_s:,.0f}/s, at {time_text(status.event_time_ms)}"
