"""`aif tables`: read the tables of this machine's workers, also while they run."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from cli.options import deployment_options
from schemas.deployment import Deployment
from schemas.errors import BadInput, Corrupt, Unavailable

if TYPE_CHECKING:
    from streams.inspection import StoreFolder

__all__ = ["command"]

_GIB, _MIB, _KIB = 1 << 30, 1 << 20, 1 << 10


@click.group("tables")
def command() -> None:
    """Read the workers' RocksDB tables on this machine. Needs no broker, disturbs no worker, writes nothing.

    What is shown is a table as it was at one moment. Tables of workers on other machines are not seen here.

    \b
    Examples:
      aif tables info
      aif tables get users 4711
      aif tables scan items --limit 3
    """


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@deployment_options
def info(as_json: bool, deployment: Deployment) -> None:
    """Every table partition on this machine: rows, size, changelog offset, watermark, and whether a worker holds it.

    Rows are RocksDB's estimate: a row that was written again counts more than once until it is compacted.

    \b
    Examples:
      aif tables info
      aif tables info --json | jq 'select(.table == "users")'
    """
    from streams.inspection import store_folders

    stores = store_folders(deployment.data_dir)
    if not stores:
        raise BadInput(f"no tables under {deployment.data_dir / 'tables'}: see --data-dir, and `aif worker`")
    for store in stores:
        described = _described(store)
        click.echo(json.dumps(described) if as_json else _line(described))


@command.command(context_settings={"ignore_unknown_options": True})
@click.argument("table")
@click.argument("key")
@click.option("--full", is_flag=True, help="All values of embeddings, signatures and vectors.")
@deployment_options
def get(table: str, key: str, full: bool, deployment: Deployment) -> None:
    """One row as JSON. KEY is an id, or the original string id, which is hashed as `aif replay` hashes it.

    Where several workers have the partition, the one that is furthest is read.

    \b
    Examples:
      aif tables get users 4711
      aif tables get items -1723 --full
      aif tables get items 85123A
    """
    from streams.inspection import find_row
    from streams.readable import readable_row

    entity = _entity(key)
    store, value = find_row(deployment, table, entity)
    if value is None:
        hashed = "" if key == str(entity) else f" (the id of {key!r})"
        raise BadInput(f"{table} has no row of {entity}{hashed}; looked in {store.path}")
    row = readable_row(table, value, deployment.data_dir / "artifacts", full=full)
    click.echo(json.dumps(row, indent=1, ensure_ascii=False))


@command.command()
@click.argument("table")
@click.option("--limit", type=click.IntRange(0), default=10, show_default=True, help="Rows to show; 0: all.")
@click.option("--partition", type=click.IntRange(0), help="Only this partition.")
@click.option("--json", "as_json", is_flag=True, help="Print whole rows, one JSON object per line.")
@deployment_options
def scan(table: str, limit: int, partition: int | None, as_json: bool, deployment: Deployment) -> None:
    """Rows of a table, partition by partition in key order.

    \b
    Examples:
      aif tables scan users
      aif tables scan items --partition 2 --limit 0 --json > items-2.jsonl
    """
    from schemas.ids import entity_id
    from streams.inspection import Snapshot, newest_stores
    from streams.readable import readable_row

    stores = newest_stores(deployment, table)
    if partition is not None and partition not in stores:
        raise BadInput(f"{table} has no partition {partition} here, only {', '.join(map(str, sorted(stores)))}")
    left = limit or None
    for number in sorted(stores) if partition is None else [partition]:
        with Snapshot(stores[number]) as snapshot:
            for key, value in islice(snapshot.rows(), left):
                row = readable_row(table, value, deployment.data_dir / "artifacts", full=as_json)
                shown = {"key": entity_id(key), "partition": number, **row}
                click.echo(json.dumps(shown, ensure_ascii=False) if as_json else _short(shown))
                left = None if left is None else left - 1
        if left == 0:
            return


def _entity(key: str) -> int:
    from schemas.ids import hashed_id

    try:
        entity = int(key)
    except ValueError:
        return hashed_id(key)
    if not -(2**63) <= entity < 2**63:
        raise BadInput(f"{key} is no id: those are 64-bit integers")
    return entity


def _described(store: StoreFolder) -> dict[str, Any]:
    from streams.inspection import Snapshot, holder

    shown: dict[str, Any] = {
        "table": store.table,
        "partition": store.partition,
        "worker": store.worker.name,
        "path": str(store.path),
        "group": store.group,
        "disk_bytes": store.disk_bytes,
    }
    try:
        shown["held_by_pid"] = holder(store.worker)
        with Snapshot(store) as snapshot:
            return shown | {
                "rows_estimate": snapshot.rows_estimate,
                "changelog_offset": snapshot.changelog_offset,
                "watermark": snapshot.watermark,
            }
    except (Corrupt, Unavailable) as error:
        return shown | {"problem": str(error)}


def _line(shown: dict[str, Any]) -> str:
    name = f"{shown['table']}-{shown['partition']}"
    if "problem" in shown:
        return f"{name:<10} {shown['worker']:<12} {shown['problem']}"
    mark = shown["watermark"]
    applied = f"source offset {mark['next_source_offset']:,}" if mark else "nothing applied"
    held = f"worker runs (pid {shown['held_by_pid']})" if shown["held_by_pid"] else "no worker"
    return (
        f"{name:<10} {shown['worker']:<12} ~{shown['rows_estimate']:,} rows  {_size(shown['disk_bytes'])}  "
        f"changelog {shown['changelog_offset']:,}  {applied}  {held}"
    )


def _size(count: int) -> str:
    for unit, size in (("GiB", _GIB), ("MiB", _MIB)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / _KIB:.1f} KiB"


def _short(shown: dict[str, Any]) -> str:
    text = json.dumps(shown, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:159]}…"
