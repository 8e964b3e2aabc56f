"""`aif model status` and `aif model history`: where roll-outs stand, and who asked for what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cli.durations import ago, span
from cli.model_report import rollout_report, waits_for
from cli.options import deployment_options, require_broker
from schemas.deployment import Deployment

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from domain.rollout import Version
    from producers.rollout_view import RolloutView
    from schemas.records import RolloutEvent

__all__ = ["history", "status"]

_REFUSALS_SHOWN = 3
#: Versions that are gone shown by `status`; `history` has all.
_GONE_SHOWN = 3
_BAR_WIDTH = 20
_PIPE_WIDTH = 140


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (with --watch, one per line).")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds between looks.")
@deployment_options
def status(as_json: bool, watch: bool, interval: float, deployment: Deployment) -> None:
    """Every version with its phase, slot and what it waits for; a build with its coverage, rate and time left.

    Coverage is counted by the workers against their own items, in the transactions that write the rows: items with a
    row of the version, of all items; rejected are those that the version can make no row of.

    \b
    Examples:
      aif model status
      aif model status --watch
      aif model status --json | jq '.versions[] | select(.phase == "live").version'
    """
    from rich.live import Live

    from producers.rollout_view import RolloutView

    require_broker(deployment)
    with RolloutView(deployment) as view:
        if not watch:
            click.echo(json.dumps(rollout_report(view))) if as_json else _console().print(_page(view), soft_wrap=True)
            return
        try:
            if as_json:
                while True:
                    click.echo(json.dumps(rollout_report(view)))
                    time.sleep(interval)
                    view.refresh()
            with Live(_page(view), console=_console(), auto_refresh=False) as live:
                while True:
                    time.sleep(interval)
                    view.refresh()
                    live.update(_page(view), refresh=True)
        except KeyboardInterrupt:
            return


@click.command()
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many lines.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@deployment_options
def history(limit: int, as_json: bool, deployment: Deployment) -> None:
    """Commands and decisions, oldest first: when, who, what and why.

    A line begins with the epoch that the decision made, or with `?`: a command that nothing was decided on yet.

    \b
    Examples:
      aif model history
      aif model history --json | jq 'select(.decision == "refuse")'
    """
    from producers.event_time import time_text

    require_broker(deployment)
    entries = list(_entries(deployment))
    if not entries:
        click.echo("no model version yet; offer one with `aif model publish ARTIFACT`", err=True)
    for entry in entries[-limit:]:
        if as_json:
            click.echo(json.dumps(entry))
            continue
        epoch = entry.get("epoch", "?")
        what = f"{entry.get('decision') or entry['command']:<8} {entry['version'] or '-':<16}"
        click.echo(f"{epoch:>5}  {time_text(entry['at_ms'])}  {what}  {entry['by']}  {entry['reason']}".rstrip())


def _entries(deployment: Deployment) -> Iterator[dict[str, Any]]:
    """Decisions, each with the command that it is about, then the commands that wait for one."""
    from producers.rollout_view import RolloutView, commands

    asked = {each.offset: each for each in commands(deployment)}
    with RolloutView(deployment) as view:
        for decided in view.decided:
            event = decided.event
            command = asked.get(event["command_offset"])
            said = command.record if command else None
            yield {
                "at_ms": decided.append_time_ms, "epoch": event["epoch"], "decision": event["decision"],
                "version": event["version"], "slot": event["slot"], "by": event["by"], "reason": event["reason"],
                "command_offset": event["command_offset"], "command": said["command"] if said else None,
                "asked_at_ms": command.append_time_ms if command else None, "uri": event["uri"],
            }  # fmt: skip
        waiting = [each for offset, each in asked.items() if offset >= view.state.next_command]
    for command in waiting:
        record = command.record
        yield {
            "at_ms": command.append_time_ms, "command_offset": command.offset,
            "command": record["command"] if record else "unreadable", "version": record["version"] if record else "",
            "by": record["published_by"] if record else "", "reason": record["reason"] if record else command.problem,
        }  # fmt: skip


def _console() -> Console:
    """As wide as the terminal is, and wide enough where there is none."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def _page(view: RolloutView) -> RenderableType:
    """What there is to know, for people."""
    from rich.console import Group
    from rich.table import Table

    from domain.rollout import Phase

    state, now_s = view.state, time.time()
    if not state.versions and not state.refusals:
        return _line("no model version yet; offer one with `aif model publish ARTIFACT`")
    table = Table(box=None, pad_edge=False)
    for name in ("version", "phase", "slot", "since", "published by", "why"):
        table.add_column(name, no_wrap=name != "why", overflow="fold")
    gone = [each for each in state.versions if each.phase in (Phase.RETIRED, Phase.REJECTED)]
    shown = [each for each in reversed(state.versions) if each not in gone[:-_GONE_SHOWN]]
    parts: list[RenderableType] = [table]
    for version in shown:
        phase = f"{version.phase}{' (paused)' if version.paused else ''}"
        since = ago(now_s - version.since_ms / 1000)
        table.add_row(version.name, phase, version.slot or "-", since, version.published_by or "-", version.reason)
    for version in shown:
        parts += _on_its_way(view, version)
    parts += [
        _line(f"refused {ago(now_s - event['event_time_ms'] / 1000)}: {event['reason']} ({_what(event)})", style="red")
        for event in state.refusals[-_REFUSALS_SHOWN:]
    ]
    return Group(*parts)


def _what(event: RolloutEvent) -> str:
    return " ".join(filter(None, (event["version"], "by", event["by"])))


def _on_its_way(view: RolloutView, version: Version) -> Iterator[Text]:
    """The lines about a version that waits for something: what for, and how far its build is."""
    from domain.rollout import Phase

    if awaited := waits_for(view, version):
        yield _line("")
        yield _line(f"{version.name} waits for {awaited}")
    if version.phase is not Phase.BUILDING:
        return
    coverage = view.coverage(version)
    left = "time left unknown" if coverage.seconds_left is None else f"{span(coverage.seconds_left)} left"
    counted = f"{coverage.written:,} of {coverage.items:,} items, {coverage.rejected:,} rejected"
    yield _line(f"all {_bar(coverage.share)}  {counted}, {coverage.items_per_s:,.0f}/s, {left}")
    for report in view.builds(version):
        share = report["written"] / report["items"] if report["items"] else float(report["done"])
        pace = "done" if report["done"] else f"{report['items_per_s']:,.0f}/s"
        said = f"{report['written']:,} of {report['items']:,}, {pace}, {report['worker']}"
        yield _line(f"{report['partition']:>3} {_bar(share)}  {said}")
        if report["problem"]:
            yield _line(f"    {report['problem']}", style="red")


def _bar(share: float) -> str:
    """A share of 1 as a bar and a number; full only where nothing is missing."""
    full = int(share * _BAR_WIDTH)
    return f"{'█' * full}{'░' * (_BAR_WIDTH - full)} {share:7.2%}"


def _line(text: str, style: str = "") -> Text:
    """One line, as long as it is: what is cut off cannot be read, and pipes have no width."""
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ignore")
