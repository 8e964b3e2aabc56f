"""`aif edge`: a model and some items in one file, and scoring with it where there is no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import deployment_options
from schemas.deployment import Deployment
from schemas.errors import BadInput

if TYPE_CHECKING:
    from domain.artifact import Manifest
    from streams.inspection import StoreFolder

__all__ = ["command"]

_TABLES = "tables"


@click.group("edge")
def command() -> None:
    """Bundle a model with some items, and score with the bundle offline: no Kafka, RocksDB or torch.

    \b
    Examples:
      aif edge build .aif/artifacts/0123456789abcdef --items tables --top 5000 --out bundle.aif
      aif edge score bundle.aif --user user.json --top-k 20
    """


@command.command()
@click.argument("artifact", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--items", required=True, metavar="tables|FILE",
    help="Rows that this machine's workers made with the model, or JSON Lines of items to make rows of",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The bundle")
@click.option("--top", type=click.IntRange(1), help="Keep the best so many items for a user of whom nothing is known")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object")
@deployment_options
def build(artifact: Path, items: str, out: Path, top: int | None, as_json: bool, deployment: Deployment) -> None:
    """Write a bundle of ARTIFACT and items into one file.

    An item of FILE is an object with item_id (a number, or a string that is hashed as `aif replay` hashes it) and any
    of title, category_id, price, numeric (numbers by name) and embedding (numbers); without an embedding the title
    makes one. Its row knows nothing of the item's activity. Deleted items are left out.

    \b
    Examples:
      aif edge build .aif/artifacts/0123456789abcdef --items tables --top 5000 --out bundle.aif
      aif edge build .aif/artifacts/0123456789abcdef --items items.jsonl --out bundle.aif
    """
    import numpy as np

    from domain.artifact import check_artifact, check_fit
    from domain.n2o import Flag
    from serving.edge import Edge, EdgeUser
    from serving.edge_bundle import Bundle, write_bundle

    manifest = check_artifact(lambda name: (artifact / name).read_bytes())
    check_fit(manifest, deployment)
    if items == _TABLES:
        records, titles = _of_tables(manifest, deployment)
    else:
        records, titles = _of_file(Path(items), artifact, manifest, deployment)
    bundle = Bundle.of(artifact, manifest, records, titles)
    bundle = bundle.take(np.flatnonzero(bundle.records["flags"] & Flag.DELETED == 0))
    if top is not None and top < len(bundle.records):
        scores, _, _ = Edge(bundle).scores(EdgeUser.nobody())
        bundle = bundle.take(np.sort(np.argsort(-scores, kind="stable")[:top]))
    write_bundle(out, bundle)
    result = {
        "version": manifest.version,
        "items": len(bundle.records),
        "bytes": out.stat().st_size,
        "bundle": str(out),
    }
    click.echo(json.dumps(result) if as_json else "\n".join(f"{name:<8} {value}" for name, value in result.items()))


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--user", required=True, type=click.Path(path_type=Path, dir_okay=False), help="What the user did, JSON")
@click.option("--top-k", type=click.IntRange(1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object")
def score(bundle: Path, user: Path, top_k: int, as_json: bool) -> None:
    """The best items of a bundle for a user.

    The user is `{"at_ms": 1700000000000, "events": [{"item_id": 5, "action": "click", "event_time_ms":
    1699999999000}]}`, oldest event first. Items of events that are not in the bundle are not seen, and counted.

    \b
    Example:
      aif edge score bundle.aif --user user.json --top-k 20
    """
    from serving.edge import Edge, EdgeUser

    found = Edge.open(bundle).rank(EdgeUser.read(user), top_k)
    best = [
        {"item_id": item, "score": round(value, 6), "title": title}
        for item, value, title in zip(found.item_ids.tolist(), found.scores.tolist(), found.titles, strict=True)
    ]
    if as_json:
        used = {"behaviours_used": found.behaviours_used, "behaviours_missing": found.behaviours_missing}
        click.echo(json.dumps({"items": best, **used}, ensure_ascii=False))
        return
    for each in best:
        click.echo(f"{each['score']:.6f}  {each['item_id']:>20}  {each['title'] or ''}".rstrip())
    missing = f", {found.behaviours_missing} are of items outside the bundle" if found.behaviours_missing else ""
    click.echo(f"{found.behaviours_used} behaviours used{missing}", err=True)


def _of_tables(manifest: Manifest, deployment: Deployment) -> tuple[Any, list[str | None]]:
    """Records of the model's version in this machine's tables, and their titles."""
    import numpy as np

    from domain.rollout import SLOTS
    from schemas.codec import codec
    from streams.inspection import newest_stores

    layout, row, item = manifest.dimensions.layout, codec("n2o_row"), codec("item_row")
    found: dict[int, bytes] = {}
    for slot in SLOTS:
        for key, value in _rows(newest_stores(deployment, slot)):
            record = row.decode(value)["record"]
            fits = len(record) == layout.stride
            if fits and np.frombuffer(record, layout.dtype)["version"][0] == manifest.version_tag:
                found[key] = record
    if not found:
        raise BadInput(
            f"no table in {deployment.data_dir / 'tables'} has rows of model {manifest.version}: publish it and let "
            "the workers build it, or give the items as a file"
        )
    titles = {
        key: item.decode(value)["title"] for key, value in _rows(newest_stores(deployment, "items")) if key in found
    }
    return np.frombuffer(b"".join(found.values()), dtype=layout.dtype), [titles.get(each) for each in found]


def _rows(stores: dict[int, StoreFolder]) -> Iterator[tuple[int, bytes]]:
    """Ids and values of all rows of a table."""
    from schemas.ids import entity_id
    from streams.inspection import Snapshot

    for store in stores.values():
        with Snapshot(store) as snapshot:
            for key, value in snapshot.rows():
                yield entity_id(key), value


def _of_file(path: Path, artifact: Path, manifest: Manifest, deployment: Deployment) -> tuple[Any, list[str | None]]:
    """Records that the model makes of the items in a file, and their titles."""
    from models.edge_items import item_records, read_items

    rows = read_items(path, deployment)
    return item_records(rows, artifact, manifest), [row["title"] for row in rows]
