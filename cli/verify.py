"""`aif verify`: compare the tables with a recompute of the log."""

from __future__ import annotations

import asyncio
import dataclasses
import json

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
@deployment_options
@click.pass_context
def command(context: click.Context, deployment: Deployment, as_json: bool) -> None:
    """Recompute all tables from their source topics and compare them row by row.

    Works on a running system (at the exact cut of the watermark rows) and on a stopped one. The log must reach back to
    its start: retention that has eaten it makes the recompute impossible, and the command says so.
    """
    require_broker(deployment)
    from rich.console import Console

    from streams.verification import Report, verify

    console = Console(stderr=True)
    with console.status("reading the log") as status:

        def progress(where: str, count: int) -> None:
            status.update(f"{where}: {count:,} records recomputed")

        report: Report = asyncio.run(verify(deployment, progress))
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(report), "equal": report.equal}))
    else:
        rows = ", ".join(f"{count:,} of {table}" for table, count in sorted(report.rows.items()))
        click.echo(f"compared {rows or 'no rows'} with {report.source_records:,} source records")
        click.echo(f"refused records: {report.refused_records:,}, without dead letter: {report.missing_dead_letters:,}")
        click.echo(f"differences: {report.differences:,}")
        for difference in report.first_differences:
            click.echo(f"  {difference}")
    context.exit(0 if report.equal else 1)
