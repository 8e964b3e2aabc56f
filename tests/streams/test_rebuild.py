"""Rebuilds of item vectors: which records are stale, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from models.aif import AIF
from models.config import ModelConfig
from models.export import export
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key
from streams.fold import REBUILD_START, Writes
from streams.item_updates import ItemUpdatesFold
from streams.rollout import ItemModel

DEPLOYMENT = Deployment()
TOPIC_ID = 77


@dataclass
class Record:
    """A source record."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = 10**12


class Tables:
    """Tables in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[bytes, bytes]] = {"items": {}, "n2o_a": {}}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """TableReader."""
        return [self.rows[table].get(key) for key in keys]

    def entity_keys(self, table: str, after: bytes, limit: int) -> list[bytes]:
        """TableReader."""
        return [key for key in sorted(self.rows[table]) if key > after][:limit]

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
    written, more = 0, True
    while more:
        piece = fold.rebuild(0, tables, at)
        assert piece.writes is None or len(piece.writes.rows["n2o_a"]) <= 2_000
        written += tables.write(piece.writes) if piece.writes else 0
        at, more = piece.at, piece.more
    return written


def test_updates_applied_without_a_model_are_caught_up(models: list[ItemModel]) -> None:
    """A worker that restarts under load and applies updates before it has its model recomputes exactly those."""
    tables, fold = Tables(), ItemUpdatesFold(DEPLOYMENT)
    fold.use_model(models[0])
    tables.write(fold.fold(0, TOPIC_ID, [_update(item, item) for item in range(10)], tables))
    restarted = ItemUpdatesFold(DEPLOYMENT)
    tables.write(restarted.fold(0, TOPIC_ID, [_update(20, 3), _update(21, 4)], tables))
    assert restarted.rebuild(0, tables, REBUILD_START).more is False, "nothing to build without a model"
    restarted.use_model(models[0])
    assert _rebuild(restarted, tables) == 2
    assert _rebuild(restarted, tables) == 0


def test_a_new_model_recomputes_everything_once_in_bounded_pieces(models: list[ItemModel]) -> None:
    """Another version makes every record stale; each is made once, at most two thousand a piece."""
    tables, fold = Tables(), ItemUpdatesFold(DEPLOYMENT)
    fold.use_model(models[0])
    tables.write(fold.fold(0, TOPIC_ID, [_update(item, item) for item in range(4_500)], tables))
    assert _rebuild(fold, tables) == 0
    fold.use_model(models[1])
    assert _rebuild(fold, tables, (models[0].version, entity_key(4_499))) == 4_500
    assert _rebuild(fold, tables) == 0


def test_a_partition_taken_back_is_looked_at_from_the_start(models: list[ItemModel]) -> None:
    """What another owner has written meanwhile is found, since the place to go on belongs to the ownership."""
    tables, fold = Tables(), ItemUpdatesFold(DEPLOYMENT)
    fold.use_model(models[0])
    tables.write(fold.fold(0, TOPIC_ID, [_update(item, item) for item in range(5)], tables))
    _rebuild(fold, tables)
    del tables.rows["n2o_a"][entity_key(2)]
    assert _rebuild(fold, tables) == 1
