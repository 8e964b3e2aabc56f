"""`aif dead-letters`: what was refused, why, and sending it again after a fix."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cli.options import deployment_options, require_broker
from schemas.deployment import Deployment
from schemas.errors import BadInput

if TYPE_CHECKING:
    from streams.dead_letters import Entry
    from streams.letter_replay import Outcome

__all__ = ["command"]


@click.group("dead-letters")
def command() -> None:
    """List, show and replay the records that the readers of a source topic refused.

    COORDINATES are those of the refused record: TOPIC-PARTITION-OFFSET, with or without the deployment's prefix.

    \b
    Examples:
      aif dead-letters list
      aif dead-letters show user-events-3-81723
      aif dead-letters replay user-events --reason far_future --dry-run
    """


@command.command("list")
@click.argument("source", required=False)
@click.option("--reason", help="Only letters with this reason.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Letters to list; 0: counts only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@deployment_options
def list_letters(source: str | None, reason: str | None, limit: int, as_json: bool, deployment: Deployment) -> None:
    """Counts by reason, then the newest letters; of SOURCE, or of all source topics.

    \b
    Examples:
      aif dead-letters list
      aif dead-letters list user-events --reason far_future --limit 100
      aif dead-letters list --json | jq .counts
    """
    require_broker(deployment)
    entries = [entry for entry in asyncio.run(_entries(deployment, source)) if reason in (None, entry.reason)]
    newest = sorted(entries, key=lambda entry: (entry.append_time_ms, entry.offset), reverse=True)[:limit]
    if as_json:
        click.echo(json.dumps({"counts": _counts(entries), "letters": [_listed(entry) for entry in newest]}))
        return
    for of, reasons in _counts(entries).items():
        for why, count in reasons.items():
            click.echo(f"{of:<16} {why:<20} {count['waiting']:>10,} waiting {count['replayed']:>10,} replayed")
    if not entries:
        click.echo("no dead letters" + (f" with reason {reason}" if reason else ""))
    for entry in newest:
        again = f"  sent again as {entry.replayed_as}" if entry.replayed_as else ""
        click.echo(f"{entry.coordinates:<40} {entry.reason:<20} {_age(entry.append_time_ms):>10} ago{again}")
    if len(newest) < len(entries) and limit:
        click.echo(f"the newest {limit:,} of {len(entries):,}; --limit shows more", err=True)


@command.command()
@click.argument("coordinates")
@deployment_options
def show(coordinates: str, deployment: Deployment) -> None:
    """One letter as JSON: reason, detail, key and value as hex and decoded as far as possible.

    `now` says what this command's settings (AIF_FUTURE_TOLERANCE_MS and others) would make of the record if it were
    sent again.

    \b
    Example:
      aif dead-letters show user-events-3-81723
    """
    require_broker(deployment)
    click.echo(json.dumps(asyncio.run(_show(deployment, coordinates)), indent=1, ensure_ascii=False))


@command.command()
@click.argument("what", metavar="[SOURCE | COORDINATES]...", nargs=-1)
@click.option("--reason", help="Only letters with this reason.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--failpoint", default="", metavar="ACTION:STEP:COUNT", hidden=True, help="For crash tests.")
@deployment_options
def replay(
    what: tuple[str, ...], reason: str | None, dry_run: bool, yes: bool, failpoint: str, deployment: Deployment
) -> None:
    """Send refused records to their source topic again, after a fix: each once, key and value unchanged.

    Of all source topics where nothing is named. A record is sent and its letter marked in one Kafka transaction: after
    a crash or Ctrl-C the next run sends the rest. A letter that is marked is not sent again. Should a record arrive
    twice all the same (its sender repeats it, or the tables are rebuilt from the log), nothing changes: its event_id
    is the same and is among the last 32 that the user's row remembers, and of an item the newest state wins.

    A record without a key, or whose key is no id, cannot be sent: it is counted. A record that is refused again gets a
    letter of its own. Header `aif-dead-letter` of a record sent again has the coordinates of the refused one.

    \b
    Examples:
      aif dead-letters replay --dry-run
      aif dead-letters replay user-events --reason far_future
      aif dead-letters replay user-events-3-81723 user-events-0-512 --yes
    """
    from streams.failpoint import Failpoint

    require_broker(deployment)
    chosen = _chosen(deployment, what)
    fail = Failpoint.parse(failpoint)
    outcomes = [asyncio.run(_replay(deployment, of, keys, reason, dry_run=True)) for of, keys in chosen.items()]
    if not dry_run and any(outcome.sent for outcome in outcomes):
        if not yes:
            planned = ", ".join(f"{outcome.sent:,} to {outcome.source}" for outcome in outcomes if outcome.sent)
            click.confirm(f"send {planned} again?", abort=True, err=True)
        with _progress() as progress:
            outcomes = [
                asyncio.run(_replay(deployment, of, keys, reason, dry_run=False, progress=progress, failpoint=fail))
                for of, keys in chosen.items()
            ]
    for outcome in outcomes:
        _report(outcome, "would be sent" if dry_run else "sent again")


async def _entries(deployment: Deployment, source: str | None) -> list[Entry]:
    from schemas.topics import REFUSING
    from streams.dead_letters import LetterLog, source_named

    found: list[Entry] = []
    for name in [source_named(source, deployment)] if source else REFUSING:
        async with LetterLog(deployment, name) as log:
            found += (await log.entries()).values()
    return found


async def _show(deployment: Deployment, coordinates: str) -> dict[str, Any]:
    from schemas.topics import TOPICS
    from streams.dead_letters import UNREADABLE, LetterLog, parse_coordinates
    from streams.letter_replay import refusal, unreplayable
    from streams.readable import readable_bytes, readable_key

    parsed = parse_coordinates(coordinates, deployment)
    if parsed is None:
        raise BadInput(f"{coordinates!r} is not TOPIC-PARTITION-OFFSET, such as user-events-3-81723")
    source, key = parsed
    async with LetterLog(deployment, source) as log:
        entry = (await log.entries()).get(key)
        if entry is None or entry.reason == UNREADABLE:
            raise BadInput(f"no readable dead letter of {key}; `aif dead-letters list {source}` shows those there are")
        letter = await log.letter(entry)
    refused = refusal(letter, source, deployment, int(time.time() * 1000))
    return {
        **_listed(entry),
        "detail": letter["detail"],
        "key": readable_key(letter["key"]),
        "value": readable_bytes(letter["value"], TOPICS[source].schema),
        "replayable": unreplayable(letter, source, deployment) or "yes",
        "now": f"would be refused: {refused}" if refused else "would be accepted",
    }


def _chosen(deployment: Deployment, what: Sequence[str]) -> dict[str, set[str] | None]:
    """Source topics, each with the letter keys asked for, None for all."""
    from schemas.topics import REFUSING
    from streams.dead_letters import parse_coordinates, source_named

    chosen: dict[str, set[str] | None] = {}
    for each in what:
        parsed = parse_coordinates(each, deployment)
        if parsed is None:
            chosen[source_named(each, deployment)] = None
        elif (keys := chosen.setdefault(parsed[0], set())) is not None:
            keys.add(parsed[1])
    return chosen or dict.fromkeys(REFUSING)


async def _replay(
    deployment: Deployment, source: str, keys: set[str] | None, reason: str | None, **options: Any
) -> Outcome:
    from streams.letter_replay import replay as send_again

    seen: set[str] = set()

    def chosen(entry: Entry) -> bool:
        seen.add(entry.coordinates)
        return (keys is None or entry.coordinates in keys) and reason in (None, entry.reason)

    outcome = await send_again(deployment, source, chosen, **options)
    if keys and (missing := keys - seen):
        raise BadInput(f"no dead letter of {', '.join(sorted(missing))}; `aif dead-letters list {source}` shows all")
    return outcome


def _report(outcome: Outcome, sent: str) -> None:
    for why, count in (+outcome.unreplayable).items():
        click.echo(f"{outcome.source}: {count:,} cannot be sent again: {why}")
    for why, count in outcome.refused_again.items():
        click.echo(f"{outcome.source}: {count:,} that this command's settings would refuse again: {why}")
    if not (outcome.sent or outcome.replayed_before or outcome.unreplayable.total()):
        click.echo(f"{outcome.source}: no letters that match")
        return
    before = f", {outcome.replayed_before:,} were before" if outcome.replayed_before else ""
    click.echo(f"{outcome.source}: {outcome.sent:,} {sent}{before}")


@contextmanager
def _progress() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _counts(entries: Sequence[Entry]) -> dict[str, dict[str, dict[str, int]]]:
    """Letters by source and reason, the most frequent first: those waiting and those replayed."""
    counted = Counter((entry.source, entry.reason, bool(entry.replayed_as)) for entry in entries)
    reasons = Counter((entry.source, entry.reason) for entry in entries)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (source, reason), _ in reasons.most_common():
        split = {"waiting": counted[source, reason, False], "replayed": counted[source, reason, True]}
        counts.setdefault(source, {})[reason] = split
    return counts


def _listed(entry: Entry) -> dict[str, Any]:
    return {
        "coordinates": entry.coordinates,
        "reason": entry.reason,
        "append_time_ms": entry.append_time_ms,
        "age_s": round(time.time() - entry.append_time_ms / 1000, 1),
        "replayed_as": entry.replayed_as or None,
    }


def _age(append_time_ms: int) -> str:
    seconds = max(0.0, time.time() - append_time_ms / 1000)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
