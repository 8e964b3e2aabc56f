"""Rows of items in a file, made by an artifact's tower: for bundles of items that no worker has seen (cli/edge.py).

The same arithmetic as the workers' (tower.py), on items as they are described, without activity: what users do with
them travels through topics, and a file has none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.activity_row import Snapshots
from domain.artifact import Manifest
from domain.lsh import hyperplanes, signatures
from domain.text import embedding_bytes
from models.tower import LoadedTower, n2o_records
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import hashed_id
from schemas.records import ItemRow

__all__ = ["item_records", "read_items"]

_FIELDS: Final = frozenset({"item_id", "title", "category_id", "price", "numeric", "embedding"})


def read_items(path: Path, deployment: Deployment) -> list[ItemRow]:
    """The items in a file of JSON Lines, an object each; a later one of an id replaces an earlier one.

    `item_id` is a number, or a string that is hashed; `title`, `category_id`, `price`, `numeric` and `embedding` may be
    left out, and a title makes the embedding where there is none. Raises BadInput naming line and field.
    """
    planes = hyperplanes(deployment.signature_seed, deployment.signature_bits, deployment.embedding_dim)
    found: dict[int, ItemRow] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _row(f"{path} line {number}", line, deployment, planes)
            found[row["item_id"]] = row
    if not found:
        raise BadInput(f"{path} holds no item")
    return list(found.values())


def item_records(rows: list[ItemRow], artifact: Path, manifest: Manifest) -> npt.NDArray[Any]:
    """The records that an artifact's tower makes of items ([n] of the layout's dtype), in their order."""
    tower = LoadedTower.open(artifact, manifest)
    return n2o_records(rows, Snapshots.none(len(rows)), tower, manifest.dimensions.layout, manifest.version_tag)


def _row(where: str, line: str, deployment: Deployment, planes: npt.NDArray[np.float32]) -> ItemRow:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where} is no JSON: {error}") from error
    if not isinstance(item, dict) or set(item) - _FIELDS:
        fields = ", ".join(sorted(_FIELDS))
        raise BadInput(f"{where} must be an object of {fields}, found {line[:60]!r}")
    title, numeric = item.get("title"), item.get("numeric") or {}
    _require(title is None or isinstance(title, str), where, "title", "text", title)
    _require(isinstance(numeric, dict) and all(map(_number, numeric.values())), where, "numeric", "numbers", numeric)
    category, price = item.get("category_id"), item.get("price")
    _require(category is None or type(category) is int, where, "category_id", "a whole number", category)
    _require(price is None or _number(price), where, "price", "a number", price)
    embedding = _embedding(where, item.get("embedding"), title, deployment.embedding_dim)
    packed = None
    if embedding is not None:
        packed = signatures(np.frombuffer(embedding, dtype="<f4").reshape(1, -1), planes)[0].tobytes()
    identity: Any = item.get("item_id")
    _require(isinstance(identity, str) or type(identity) is int, where, "item_id", "a number or text", identity)
    return {
        "item_id": hashed_id(identity) if isinstance(identity, str) else identity,
        "event_time_ms": 0, "source_topic_id": 0, "source_offset": 0, "deleted": False,
        "original_id": identity if isinstance(identity, str) else None, "title": title,
        "category_id": category, "price": price, "published_ms": None,
        "embedding": embedding, "numeric": numeric, "signature": packed,
        "signature_version": deployment.signature_version,
    }  # fmt: skip


def _embedding(where: str, values: Any, title: str | None, dim: int) -> bytes | None:
    if values is None:
        return None if title is None else embedding_bytes(title, dim)
    _require(
        isinstance(values, list) and len(values) == dim and all(map(_number, values)), where, "embedding",
        f"{dim} numbers", values,
    )  # fmt: skip
    return np.array(values, dtype="<f4").tobytes()


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(holds: bool, where: str, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise BadInput(f"{where}: {name} must be {expected}, found {str(found)[:60]!r}")
