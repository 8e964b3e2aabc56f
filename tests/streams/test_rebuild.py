"""Rebuilds of item vectors: which records are stale, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rows_in_memory import RowsInMemory

from domain.activity_row import NO_SNAPSHOT, Snapshots
from models.aif import AIF
from models.config import ModelConfig
from models.export import export
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key
from streams.fold import REBUILD_START, Writes
from streams.fresh_items import FreshItems
from streams.item_model import Feed, ItemModel
from streams.item_updates import ItemUpdatesFold

DEPLOYMENT = Deployment()
TOPIC_ID = 77


@dataclass
class Record:
    """A source record."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = 10**12


class Tables(RowsInMemory):
    """Tables in memory."""

    def write(self, writes: Writes) -> int:
        """What the store does; the number of N2O rows."""
        for table, rows in writes.rows.items():
            self.rows[table].update({key: value for key, value in rows if value is not None})
        return len(writes.rows.get("n2o_a", ()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ItemModel]:
    """Two untrained models."""
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        exported = export(AIF(ModelConfig.of(DEPLOYMENT)), {"seed": seed}, tmp_path_factory.mktemp("artifacts"))
        made.append(ItemModel.load(Path(exported.folder), exported.manifest.version, DEPLOYMENT))
    return made


def _feed(fold: ItemUpdatesFold, model: ItemModel) -> None:
    fold.feed({"n2o_a": Feed.live(model, "n2o_a")})


def _update(offset: int, item: int) -> Record:
    update = {
        "event_id": offset,
        "item_id": item,
        "event_time_ms": 1000 + offset,
        "op": "upsert",
        "price": 1.0 + offset,
    }
    return Record(offset, entity_key(item), codec("item_update").encode({**update, "embedding": bytes(256)}))


def _rebuild(fold: ItemUpdatesFold, tables: Tables, at: Any = REBUILD_START) -> int:
    return _rebuilt(fold, tables, at)[0]


def _rebuilt(fold: ItemUpdatesFold, tables: Tables, at: Any = REBUILD_START) -> tuple[int, Any]:
    """Pieces until nothing is left to do: rows written, and the place where the next would go on."""
    written, more = 0, True
    while more:
        piece = fold.rebuild(0, tables, at, 2_000)
        assert piece.writes is None or len(piece.writes.rows.get("n2o_a", ())) <= 2_000
        written += tables.write(piece.writes) if piece.writes else 0
        at, more = piece.at, piece.more
    return written, at


def test_updates_applied_without_a_model_are_caught_up(models: list[ItemModel]) -> None:
    """A worker that restarts under load and applies updates before it has its model recomputes exactly those."""
    tables, fold = Tables(), ItemUpdatesFold(DEPLOYMENT)
    _feed(fold, models[0])
    tables.write(fold.fold(0, TOPIC_ID, [_update(item, item) for item in range(10)], tables))
    restarted = ItemUpdatesFold(DEPLOYMENT)
    tables.write(restarted.fold(0, TOPIC_ID, [_update(20, 3), _update(21, 4)], tables))
    assert restarted.rebuild(0, tables, REBUILD_START, 10).more is False, "nothing to build without a model"
    _feed(restarted, models[0])
    assert _rebuild(restarted, tables) == 2
    assert _rebuild(restarted, tables) == 0


def test_a_new_model_recomputes_everything_once_in_bounded_pieces(models: list[ItemModel]) -> None:
    """Another version makes every record stale; each is made once, at most two thousand a piece."""
    tables, fold = Tables(), ItemUpdatesFold(DEPLOYMENT)
    _feed(fold, models[0])
    tables.write(fold.fold(0, TOPIC_ID, [_update(item, item) for item in range(4_500)], tables))
    written, at = _rebuilt(fold, tables)
    assert written == 0
    _feed(fold, models[1])
    assert _rebuild(fold, tables, at) == 4_500
    assert _rebuild(fold, tables) == 0


def test_a_partition_taken_back_is_looked_at_from_the_start(models: list[ItemModel]) -> None:
    """What another owner has written meanwhile is found, since the place to go on belongs to the ownership."""
    tables, fold = Tables(), ItemUpdatesFold(DEPLOYMENT)
    _feed(fold, models[0])
    tables.write(fold.fold(0, TOPIC_ID, [_update(item, item) for item in range(5)], tables))
    _rebuild(fold, tables)
    del tables.rows["n2o_a"][entity_key(2)]
    assert _rebuild(fold, tables) == 1


# -- snapshots of activity ---------------------------------------------------------------------------------------------


class Activity:
    """An activity table in memory: a time of the snapshot by key; closed where `open` is false."""

    def __init__(self) -> None:
        self.made_ms: dict[bytes, int] = {}
        self.open = True

    def __call__(self, partition: int, keys: Sequence[bytes]) -> Snapshots | None:
        """ActivityReader."""
        found = Snapshots.none(len(keys))
        found.made_ms[:] = [self.made_ms.get(key, NO_SNAPSHOT) for key in keys]
        found.features[:] = np.maximum(found.made_ms, 0)[:, None] / 100
        return found if self.open else None


def _named(tables: Tables) -> dict[int, int]:
    """Snapshots that the records name, by item."""
    layout = ModelConfig.of(DEPLOYMENT).dimensions.layout
    values = tables.rows["n2o_a"].values()
    records = [np.frombuffer(codec("n2o_row").decode(value)["record"], layout.dtype)[0] for value in values]
    return {int(record["item_id"]): int(record["snapshot_ms"]) for record in records}


def _world(model: ItemModel, items: int) -> tuple[ItemUpdatesFold, Tables, Activity, FreshItems]:
    activity, fresh, tables = Activity(), FreshItems(), Tables()
    fold = ItemUpdatesFold(DEPLOYMENT, activity, fresh)
    _feed(fold, model)
    tables.write(fold.fold(0, TOPIC_ID, [_update(item, item) for item in range(items)], tables))
    return fold, tables, activity, fresh


def test_an_announced_item_is_made_again_once_its_snapshot_shows(models: list[ItemModel]) -> None:
    """Announced before the table shows it, an item waits, is made with that very snapshot, and not a second time."""
    fold, tables, activity, fresh = _world(models[0], 3)
    _, at = _rebuilt(fold, tables)
    assert _named(tables) == dict.fromkeys(range(3), NO_SNAPSHOT)
    fresh.announce(0, {entity_key(1): 500})
    fresh.announce(1, {entity_key(2): 500})
    assert fold.rebuild(0, tables, at, 2_000).writes is None
    activity.made_ms[entity_key(1)] = 500
    before = dict(tables.rows["n2o_a"])
    piece = fold.rebuild(0, tables, at, 2_000)
    assert piece.more and piece.at == at and piece.writes is not None and tables.write(piece.writes) == 1
    assert _named(tables) == {0: NO_SNAPSHOT, 1: 500, 2: NO_SNAPSHOT}
    assert before[entity_key(1)] != tables.rows["n2o_a"][entity_key(1)]
    assert fold.rebuild(0, tables, at, 2_000).writes is None and not fresh.some(0, 9) and fresh.some(1, 9)


def test_a_scan_finds_snapshots_that_nobody_announced(models: list[ItemModel]) -> None:
    """After a crash between an activity batch and the records that follow it, the scan makes exactly those again."""
    fold, tables, activity, _ = _world(models[0], 5)
    activity.made_ms = {entity_key(1): 700, entity_key(4): 800, entity_key(9): 900}
    assert _rebuild(fold, tables) == 2
    assert _named(tables) == {0: NO_SNAPSHOT, 1: 700, 2: NO_SNAPSHOT, 3: NO_SNAPSHOT, 4: 800}
    assert _rebuild(fold, tables) == 0


def test_activity_that_cannot_be_read_is_caught_up_with(models: list[ItemModel]) -> None:
    """While the activity table is closed updates are embedded without it and the scan waits; then it finds them."""
    fold, tables, activity, fresh = _world(models[0], 1)
    activity.made_ms, activity.open = {entity_key(0): 700, entity_key(1): 700}, False
    tables.write(fold.fold(0, TOPIC_ID, [_update(7, 1)], tables))
    fresh.announce(0, {entity_key(0): 700})
    piece = fold.rebuild(0, tables, REBUILD_START, 10)
    assert (piece.writes, piece.more) == (None, False)
    assert _named(tables) == {0: NO_SNAPSHOT, 1: NO_SNAPSHOT}
    activity.open = True
    assert _rebuild(fold, tables) == 2
    assert _named(tables) == {0: 700, 1: 700}


def test_an_update_is_embedded_with_the_snapshot_that_stands(models: list[ItemModel]) -> None:
    """A catalogue update reads the item's snapshot and leaves nothing stale behind."""
    fold, tables, activity, _ = _world(models[0], 2)
    activity.made_ms = {entity_key(0): 700}
    tables.write(fold.fold(0, TOPIC_ID, [_update(7, 0), _update(8, 1)], tables))
    assert _named(tables) == {0: 700, 1: NO_SNAPSHOT}
    assert _rebuild(fold, tables) == 0
