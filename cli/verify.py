"""`aif verify`: compare the tables with a recompute of the log."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import click

from cli.options import deployment_options, require_broker
from schemas.deployment import Deployment

__all__ = ["command"]


@click.command(
    "verify",
    epilog="""\b
Examples:
  aif verify             exit status 0 where every row equals the log, 1 where one differs
  aif verify --json      one JSON object with counts and the first differences
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option(
    "--checkpoint",
    "checkpoint_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to keep what was verified  [default: DATA_DIR/verify.checkpoint]",
)
@deployment_options
@click.pass_context
def command(context: click.Context, deployment: Deployment, as_json: bool, checkpoint_path: Path | None) -> None:
    """Recompute all tables from their source topics and compare them row by row.

    Works on a running system (at the exact cut of the watermark rows) and on a stopped one. A run without differences
    leaves a checkpoint; where retention has since deleted the start of the log, the next run begins there and says so.
    """
    require_broker(deployment)
    from rich.console import Console

    from streams.checkpoint import Checkpoint
    from streams.verification import Report, verify

    path = checkpoint_path or deployment.data_dir / "verify.checkpoint"
    checkpoint = Checkpoint.load(path)
    console = Console(stderr=True)
    with console.status("reading the log") as status:

        def progress(where: str, count: int) -> None:
            status.update(f"{where}: {count:,} records recomputed")

        report: Report = asyncio.run(verify(deployment, progress, checkpoint))
    if report.equal:
        checkpoint.save(path)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(report), "equal": report.equal}))
    else:
        rows = ", ".join(f"{count:,} of {table}" for table, count in sorted(report.rows.items()))
        click.echo(f"compared {rows or 'no rows'} with {report.source_records:,} source records")
        click.echo(f"refused records: {report.refused_records:,}, without dead letter: {report.missing_dead_letters:,}")
        for partition, offset in sorted(report.horizon.items()):
            click.echo(f"{partition} was recomputed from offset {offset}, where the last verification stopped")
        click.echo(f"differences: {report.differences:,}")
        for difference in report.first_differences:
            click.echo(f"  {difference}")
    context.exit(0 if report.equal else 1)
