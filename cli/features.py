"""`aif features`: what is declared of users, what a user's values are, and training rows as of any past moment."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cli.options import deployment_options
from schemas.deployment import Deployment
from schemas.errors import BadInput

__all__ = ["command"]


@click.group("features")
def command() -> None:
    """Declared user features: the registry, values of a user, and point-in-time training rows.

    \b
    Examples:
      aif features describe
      aif features get 4711
      aif features export --events log.parquet --labels labels.parquet --out training
    """


@command.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@deployment_options
def describe(as_json: bool, deployment: Deployment) -> None:
    """Every declared feature with type, source actions, window and owner; and how fresh the values here are.

    Then what item vectors are made with of what users do to an item: counts of every action over these windows, as of
    a snapshot. They are not declared, they are part of the model's input.

    \b
    Examples:
      aif features describe
      aif features describe --json | jq -r 'select(.owner == "commerce").name'
    """
    from domain.activity_row import ACTIVITY_FEATURES, ACTIVITY_WINDOWS
    from domain.features import FEATURES
    from schemas.records import ACTIONS

    for feature in FEATURES:
        if as_json:
            click.echo(json.dumps(feature.described()))
        else:
            of = f"{feature.aggregation} of {', '.join(feature.actions)}"
            of += f" per {', '.join(feature.over)}" if feature.over else ""
            click.echo(f"{feature.name:20} {feature.type.partition('<')[0]:7} {feature.owner:10} {feature.doc}")
            click.echo(f"{'':20} {of}{_span(feature)}")
    activity: dict[str, Any] = {
        "windows": [window.name for window in ACTIVITY_WINDOWS], "actions": list(ACTIONS),
        "values": ACTIVITY_FEATURES, "interval_s": deployment.reembed_interval_s,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps({"item_activity": activity}))
    else:
        click.echo(
            f"item vectors: {ACTIVITY_FEATURES} counts, of {len(ACTIONS)} actions over "
            f"{', '.join(activity['windows'])}, taken every {deployment.reembed_interval_s:,} s of event time"
        )
    fresh = _freshness(deployment)
    click.echo(json.dumps({"freshness": fresh}) if as_json else _fresh_lines(fresh))


@command.command(context_settings={"ignore_unknown_options": True})
@click.argument("user")
@click.option("--at", "at", metavar="TIME", help="Unix ms or ISO 8601  [default: the deployment's clock]")
@deployment_options
def get(user: str, at: str | None, deployment: Deployment) -> None:
    """A user's features as JSON, read from this machine's tables. USER is an id, or the original string id.

    A time before the user's newest event sees the tiles up to then; what is not kept by tile is as of that event.

    \b
    Examples:
      aif features get 4711
      aif features get 4711 --at 2017-10-03T12:00:00+00:00
    """
    import numpy as np

    from cli.tables import _entity
    from domain.feature_values import feature_values
    from domain.user_row import check_rows
    from schemas.codec import codec
    from streams.inspection import find_row

    entity = _entity(user)
    store, value = find_row(deployment, "users", entity)
    if value is None:
        raise BadInput(f"user {entity} has no row; looked in {store.path}")
    head: Any = codec("user_head").decode(value)
    check_rows([head])
    at_ms = _now_ms(deployment) if at is None else _time_ms(at)
    found = feature_values([head], np.array([at_ms], dtype=np.int64))
    shown = {
        "user_id": entity,
        "at_ms": at_ms,
        "newest_event_time_ms": head["newest_event_time_ms"],
        "source_offset": head["source_offset"],
        "features": {name: column.items()[0] for name, column in found.items()},
    }
    click.echo(json.dumps(shown, indent=2))


@command.command()
@click.option("--events", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="LOG")
@click.option("--labels", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="LOG")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def export(events: Path, labels: Path, out: Path, as_json: bool) -> None:
    """Write DIR/features.parquet: each label with every feature as of the label's position in the log.

    Events are Parquet rows of user events in log order (event_id, user_id, item_id, event_time_ms, action; category_id
    and value where there are any). Labels are Parquet rows with user_id, position (how many events of the log come
    before), at_ms (the time at which to read) and any columns of their own, ascending by position. What comes later in
    the log is not seen, whatever its event time. Memory grows with users, not with rows.

    \b
    Examples:
      aif features export --events log.parquet --labels labels.parquet --out training
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise BadInput("pyarrow cannot be imported: pip install 'aif-nearline[parquet]'") from error
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from models.point_in_time import export_features

    started, total = time.monotonic(), parquet.read_metadata(events).num_rows
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("events", total=total)
        rows = export_features(
            events, labels, out,
            lambda done, written: bar.update(task, completed=done, description=f"events, {written:,} rows written"),
        )  # fmt: skip
    spent = time.monotonic() - started
    found = {"rows": rows, "events": total, "seconds": round(spent, 3), "path": str(out / "features.parquet")}
    click.echo(json.dumps(found) if as_json else f"{rows:,} rows in {spent:.1f} s: {found['path']}")


def _span(feature: Any) -> str:
    span_ms = feature.window_ms or feature.half_life_ms
    if span_ms is None:
        return ""
    unit, name = next((ms, name) for ms, name in _UNITS if span_ms % ms == 0)
    return f", {'window' if feature.window_ms else 'half life'} {span_ms // unit} {name}"


_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1, "ms"))


def _freshness(deployment: Deployment) -> list[dict[str, Any]]:
    """Per partition of table users on this machine: where it stands. Empty where there is none."""
    from streams.inspection import Snapshot, newest_stores

    try:
        stores = newest_stores(deployment, "users")
    except BadInput:
        return []
    fresh = []
    for partition, store in sorted(stores.items()):
        with Snapshot(store) as snapshot:
            mark = snapshot.watermark
        if mark is not None:
            fresh.append(
                {
                    "partition": partition, "newest_event_time_ms": mark["max_event_time_ms"],
                    "next_source_offset": mark["next_source_offset"],
                    "written_s_ago": round(time.time() - mark["wall_time_ms"] / 1000, 1),
                }
            )  # fmt: skip
    return fresh


def _fresh_lines(fresh: list[dict[str, Any]]) -> str:
    if not fresh:
        return "freshness: no tables of users on this machine (--data-dir, --prefix)"
    return "\n".join(
        f"users-{each['partition']}: event clock {_iso(each['newest_event_time_ms'])}, written "
        f"{each['written_s_ago']} s ago at offset {each['next_source_offset']}"
        for each in fresh
    )


def _now_ms(deployment: Deployment) -> int:
    fresh = _freshness(deployment) if deployment.clock == "event" else []
    return max((int(each["newest_event_time_ms"]) for each in fresh), default=int(time.time() * 1000))


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _time_ms(text: str) -> int:
    try:
        if text.lstrip("-").isdigit():
            return int(text)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is no time: give Unix milliseconds or ISO 8601") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
