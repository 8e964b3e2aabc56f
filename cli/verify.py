"""`aif verify`: compare the tables with a recompute of the log."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import deployment_options, require_broker
from schemas.deployment import Deployment

if TYPE_CHECKING:
    from streams.verification import Report

__all__ = ["command", "report_lines"]


@click.command(
    "verify",
    epilog="""\b
Examples:
  aif verify             exit status 0 where every row equals the log, 1 where one differs
  aif verify --json      one JSON object with counts, coverage and the first differences
  aif verify --no-stores the topics only, not the tables on this machine's disk
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option(
    "--checkpoint",
    "checkpoint_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to keep what was verified  [default: DATA_DIR/verify.checkpoint]",
)
@click.option(
    "--stores/--no-stores", default=True, help="Compare the tables on this machine's disk too  [default: yes]"
)
@deployment_options
@click.pass_context
def command(
    context: click.Context, deployment: Deployment, as_json: bool, checkpoint_path: Path | None, stores: bool
) -> None:
    """Recompute all tables from their source topics and compare them row by row.

    Exit status 1 says that something differs, and nothing else does. Items without a vector of a version that
    workers keep rows of are counted, not differences. Tables on this machine's disk are compared with what the topics
    say of them.

    Works on a running system (at the exact cut of the watermark rows) and on a stopped one. A run without differences
    leaves a checkpoint; where retention has since deleted the start of the log, the next run begins there and says so.
    """
    require_broker(deployment)
    from rich.console import Console

    from streams.checkpoint import Checkpoint
    from streams.verification import verify

    path = checkpoint_path or deployment.data_dir / "verify.checkpoint"
    checkpoint = Checkpoint.load(path)
    console = Console(stderr=True)
    with console.status("reading the log") as status:

        def progress(where: str, count: int) -> None:
            status.update(f"{where}: {count:,} records recomputed")

        report = asyncio.run(verify(deployment, progress, checkpoint, stores=stores))
    if report.equal:
        checkpoint.save(path)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(report), "equal": report.equal}))
    else:
        click.echo("\n".join(report_lines(report)))
    context.exit(0 if report.equal else 1)


def report_lines(report: Report) -> Iterator[str]:
    """The report as text for people."""
    rows = ", ".join(f"{count:,} of {table}" for table, count in sorted(report.rows.items()))
    yield f"compared {rows or 'no rows'} with {report.source_records:,} source records"
    yield f"refused records: {report.refused_records:,}, without dead letter: {report.missing_dead_letters:,}"
    if report.refused_then_acceptable_now:
        yield f"  {report.refused_then_acceptable_now:,} of them would be accepted today; they were refused when read"
    if report.accepted_then_refused_now:
        yield f"accepted under other settings: {report.accepted_then_refused_now:,} records that today's would refuse"
    for partition, offset in sorted(report.horizon.items()):
        yield f"{partition} was recomputed from offset {offset}, where the last verification stopped"
    if not report.coverage:
        yield "no model version has a slot: items have no vectors"
    for table, found in sorted(report.coverage.items()):
        yield (
            f"{table}: {found.current:,} of {found.items:,} items have a row of model {found.version} "
            f"({found.phase}); {found.other_models:,} of another model, {found.missing:,} without"
        )
        if found.awaiting_activity:
            yield f"{table}: {found.awaiting_activity:,} rows await a newer snapshot of what users did to the item"
    if report.stores is not None:
        yield f"on this machine: {len(report.stores)} stores, {sum(report.stores.values()):,} rows compared"
    yield f"differences: {report.differences:,}"
    yield from (f"  {difference}" for difference in report.first_differences)
