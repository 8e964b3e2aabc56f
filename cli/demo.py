"""`aif demo`: the whole system on this machine, on a real log, in a few minutes."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path
from types import FrameType

import click

from cli.options import deployment_options
from schemas.deployment import Deployment

__all__ = ["command"]


@click.command("demo")
@click.option(
    "--dataset", default="online-retail-sample", show_default=True, help="A shipped mapping, or a mapping file."
)
@click.option("--path", type=click.Path(path_type=Path, exists=True), help="Where the data set's files are.")
@click.option("--limit", default=70_000, show_default=True, type=click.IntRange(min=5_000), help="User events at most.")
@click.option("--queries", default=300, show_default=True, type=click.IntRange(min=10), help="Rank queries to time.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on the last line.")
@click.option("--keep", is_flag=True, help="Leave everything running; `aif demo --stop` ends it.")
@click.option("--stop", "stop_kept", is_flag=True, help="Stop what an earlier `--keep` left running.")
@deployment_options
def command(
    deployment: Deployment,
    dataset: str,
    path: Path | None,
    limit: int,
    queries: int,
    as_json: bool,
    keep: bool,
    stop_kept: bool,
) -> None:
    """Broker, topics, worker, replay of a real log, training, serving and queries, then one page of results.

    Uses the brokers it is told of (--bootstrap-servers, AIF_BOOTSTRAP_SERVERS) or a running local one; otherwise it
    starts Apache Kafka as one local process. What it started it stops, also on Ctrl-C, and deletes its topics.

    \b
    Examples:
      aif demo                                  the bundled shop log
      aif demo --keep                           leave it running, to look around; one at a time
      aif demo --stop                           end it
      aif demo --dataset kuairand-exposures --path ../shared/data/kuairand-exposures
      aif demo --json                           for scripts: one JSON object on the last line
    """
    from rich.console import Console

    from cli.demo_fleet import Fleet, refuse_second, stop_record
    from cli.demo_page import page
    from cli.demo_story import Story

    if stop_kept:
        click.echo(stop_record(deployment))
        return
    if keep:
        refuse_second(deployment.data_dir)  # now, and not after minutes
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job would ignore it
        signal.signal(number, _interrupt)
    console = Console(stderr=True)
    started_s = time.monotonic()
    prefix = f"{deployment.prefix}demo-{uuid.uuid4().hex[:6]}-"
    fleet = Fleet(deployment, prefix, os.environ, console)
    try:
        fleet.start()
        summary = Story(fleet, console, dataset, path, limit, queries).tell()
        click.echo(page(summary, fleet, time.monotonic() - started_s))
        if keep:
            click.echo(fleet.keep())
    finally:
        if not fleet.kept:
            fleet.stop()
    if as_json:
        click.echo(json.dumps(summary.for_programs()))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
