"""`aif lag`: how far the tables are behind, how fresh they are, and who works on what."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.durations import ago
from cli.options import deployment_options, require_broker
from schemas.deployment import Deployment

if TYPE_CHECKING:
    from rich.table import Table

    from streams.lag import PartitionLag

__all__ = ["command"]


@click.command(
    "lag",
    epilog="""\b
Examples:
  aif lag                                        one table
  aif lag --watch                                anew every 2 s until Ctrl-C
  aif lag --json | jq .total.lag                 for scripts
  aif lag --watch --interval 10 --json >> lag.jsonl
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (with --watch, one per line).")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between looks.")
@deployment_options
def command(deployment: Deployment, as_json: bool, watch: bool, interval: float) -> None:
    """Lag and freshness of every source partition.

    `applied` is the first source offset that is not in the tables yet, from the watermark row at the end of their
    changelogs; `lag` the records from there on; `committed` the offset that other Kafka tools show. `last batch` and
    `event clock` say when the tables last changed and how new the newest event in them is. Records behind an open
    transaction are counted as lag and shown as held back: no worker can read them before it ends.
    """
    from rich.console import Console
    from rich.live import Live

    from streams.lag import measure

    require_broker(deployment)
    first = asyncio.run(measure(deployment))
    if not watch or as_json:
        _print(first, as_json)
    if not watch:
        return
    try:
        if as_json:
            while True:
                time.sleep(interval)
                _print(asyncio.run(measure(deployment)), as_json)
        with Live(_table(first), console=Console(), auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(_table(asyncio.run(measure(deployment))), refresh=True)
    except KeyboardInterrupt:
        return


def _print(lags: Sequence[PartitionLag], as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        click.echo(json.dumps(_report(lags)))
    else:
        Console().print(_table(lags))


def _report(lags: Sequence[PartitionLag]) -> dict[str, Any]:
    now_ms = int(time.time() * 1000)
    ages = [age for lag in lags if (age := lag.batch_age_s(now_ms)) is not None]
    clocks = [lag.event_clock_ms for lag in lags if lag.event_clock_ms]
    return {
        "at_ms": now_ms,
        "partitions": [
            {
                "partition": f"{lag.source}-{lag.partition}",
                "end": lag.end,
                "committed": lag.committed,
                "applied": {table: mark["next_source_offset"] if mark else None for table, mark in lag.marks.items()},
                "lag": lag.lag,
                "held_back": lag.held_back,
                "last_batch_age_s": lag.batch_age_s(now_ms),
                "event_clock_ms": lag.event_clock_ms,
                "event_clock_age_s": (now_ms - lag.event_clock_ms) / 1000 if lag.event_clock_ms else None,
                "owner": lag.owner or None,
            }
            for lag in lags
        ],
        "total": {
            "lag": sum(lag.lag for lag in lags),
            "held_back": sum(lag.held_back for lag in lags),
            "without_owner": sum(not lag.owner for lag in lags),
            "newest_batch_age_s": min(ages, default=None),
            "event_clock_ms": max(clocks, default=None),
        },
    }


def _table(lags: Sequence[PartitionLag]) -> Table:
    from rich.table import Table

    report = _report(lags)
    table = Table(box=None, pad_edge=False, show_footer=True)
    total = report["total"]
    footers = {"partition": "total", "lag": f"{total['lag']:,}", "last batch": ago(total["newest_batch_age_s"])}
    for name in ("partition", "end", "committed", "applied", "lag", "last batch", "event clock", "owner"):
        left = name in ("partition", "owner")
        table.add_column(name, footers.get(name, ""), justify="left" if left else "right", no_wrap=name != "owner")
    for lag, shown in zip(lags, report["partitions"], strict=True):
        held_back = f" ({lag.held_back:,} held back)" if lag.held_back else ""
        applied = sorted({"-" if offset is None else f"{offset:,}" for offset in shown["applied"].values()})
        table.add_row(
            shown["partition"],
            f"{lag.end:,}",
            "-" if lag.committed is None else f"{lag.committed:,}",
            " / ".join(applied),
            f"[red]{lag.lag:,}{held_back}[/red]" if lag.lag else "0",
            ago(shown["last_batch_age_s"]),
            ago(shown["event_clock_age_s"]),
            lag.owner or "[red]nobody[/red]",
        )
    return table
