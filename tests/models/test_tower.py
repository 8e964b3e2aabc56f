from __future__ import annotations

import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.activity_row import ACTIVITY_FEATURES, Snapshots
from domain.artifact import ITEM_TOWER
from domain.bf16 import to_bf16
from domain.item_features import item_inputs
from domain.n2o import Flag
from models.export import Exported
from models.tower import LoadedTower, n2o_records
from models.training import Trained
from schemas.errors import ArtifactError, BadInput
from schemas.records import ItemRow


@pytest.fixture(scope="module")
def tower(exported: Exported) -> LoadedTower:
    """The exported tower."""
    return LoadedTower.open(exported.folder, exported.manifest)


def test_towers_are_opened_by_several_threads_at_once(exported: Exported) -> None:
    """A take-over loads every version that is fed, each in a thread of its own, and all of them load."""
    together = threading.Barrier(4)

    def opened(_: int) -> LoadedTower:
        together.wait(20)
        return LoadedTower.open(exported.folder, exported.manifest)

    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(opened, range(4)))) == 4


@pytest.fixture(scope="module")
def rows(entries: list[tuple[str, Any]], exported: Exported) -> list[ItemRow]:
    """400 item rows: the planted items over and over, with changing fields."""
    updates = [record for kind, record in entries if kind == "item"]
    return [_row(updates[place % len(updates)], place, exported.manifest.signature_version) for place in range(400)]


@pytest.fixture(scope="module")
def activity(rows: list[ItemRow]) -> Snapshots:
    """What users did to the items, nothing to every third."""
    snapshots, random = Snapshots.none(len(rows)), np.random.default_rng(3)
    some = np.arange(len(rows)) % 3 > 0
    snapshots.made_ms[some] = 5_000 + np.flatnonzero(some)
    snapshots.features[some] = random.random((int(some.sum()), ACTIVITY_FEATURES), dtype=np.float32) * 5
    return snapshots


def _row(update: Any, place: int, signature_version: str) -> ItemRow:
    fields = {name: update[name] for name in update if name not in ("event_id", "op")}
    return {  # type: ignore[typeddict-item]
        **fields,
        "item_id": place - 200,
        "event_time_ms": 1000 + place,
        "source_topic_id": 77,
        "source_offset": 3 * place,
        "deleted": place % 10 == 0,
        "signature": bytes([place % 256] * 8) if update["embedding"] else None,
        "signature_version": signature_version,
    }


def test_exported_tower_equals_torch(
    trained: Trained, tower: LoadedTower, rows: list[ItemRow], activity: Snapshots
) -> None:
    """The exported program gives the model's vectors and bridge weights, the last incomplete chunk included."""
    inputs = item_inputs(rows, tower.manifest.dimensions)
    vectors, bridges = tower(inputs)
    with torch.no_grad():
        tensors = map(torch.from_numpy, inputs.columns(tower.manifest.dimensions))
        expected = [output.numpy() for output in trained.model.tower(*tensors)]
    np.testing.assert_allclose(vectors, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bridges, expected[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bridges.sum(axis=1), 1, rtol=1e-5)


def test_towers_are_opened_side_by_side(exported: Exported) -> None:
    """A worker that starts opens the towers of all versions that are fed at once, each in a thread of its own."""
    with ThreadPoolExecutor(4) as four:
        opened = list(four.map(lambda _: LoadedTower.open(exported.folder, exported.manifest), range(8)))
    assert len(opened) == 8


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 399), max_size=300))
def test_a_record_does_not_depend_on_its_batch(
    tower: LoadedTower, rows: list[ItemRow], activity: Snapshots, chosen: list[int]
) -> None:
    """Records of any selection of rows, in any order, are byte for byte those of the whole batch."""
    layout = tower.manifest.dimensions.layout
    whole = n2o_records(rows, activity, tower, layout, 5).tobytes()
    found = n2o_records([rows[place] for place in chosen], activity.take(chosen), tower, layout, 5).tobytes()
    assert found == b"".join(whole[place * layout.stride : (place + 1) * layout.stride] for place in chosen)


def test_records_carry_their_rows(tower: LoadedTower, rows: list[ItemRow], activity: Snapshots) -> None:
    """Every field of a record is that of its row, and flags say which of them mean something."""
    dims = tower.manifest.dimensions
    records = n2o_records(rows, activity, tower, dims.layout, tower.manifest.version_tag)
    vectors, bridges = tower(item_inputs(rows, dims, activity))
    assert records["snapshot_ms"].tolist() == activity.made_ms.tolist()
    np.testing.assert_array_equal(records["vector"], to_bf16(vectors))
    np.testing.assert_array_equal(records["bridges"], to_bf16(bridges))
    assert (records["version"] == tower.manifest.version_tag).all()
    for record, row in zip(records, rows, strict=True):
        for name in ("item_id", "event_time_ms", "source_topic_id", "source_offset"):
            assert record[name] == row[name]  # type: ignore[literal-required]
        flags = Flag(int(record["flags"]))
        assert (Flag.DELETED in flags) == row["deleted"]
        assert (Flag.HAS_CATEGORY in flags) == (row["category_id"] is not None)
        assert (Flag.HAS_PRICE in flags) == (row["price"] is not None)
        assert (Flag.HAS_SIGNATURE in flags) == (row["signature"] is not None)
        assert record["category_id"] == (row["category_id"] or 0)
        assert record["price"] == np.float32(row["price"] or 0)
        assert record["signature"].tobytes() == (row["signature"] or bytes(8))


def test_no_rows_are_no_records(tower: LoadedTower) -> None:
    """An empty batch gives an empty array."""
    assert len(n2o_records([], Snapshots.none(0), tower, tower.manifest.dimensions.layout, 1)) == 0


def test_a_foreign_signature_is_left_out(tower: LoadedTower, rows: list[ItemRow]) -> None:
    """A signature of other hyperplanes does not compare, so the record has none."""
    foreign: ItemRow = {**rows[1], "signature_version": "srp-other"}
    record = n2o_records([foreign], Snapshots.none(1), tower, tower.manifest.dimensions.layout, 1)[0]
    assert not record["flags"] & Flag.HAS_SIGNATURE
    assert not record["signature"].any()


def test_an_embedding_of_another_model_is_refused(tower: LoadedTower, rows: list[ItemRow]) -> None:
    """A row whose embedding has another length than the model's stops the batch, with both lengths."""
    wrong: ItemRow = {**rows[1], "embedding": bytes(12)}
    with pytest.raises(BadInput, match="12 bytes, the model expects 64"):
        n2o_records([wrong], Snapshots.none(1), tower, tower.manifest.dimensions.layout, 1)


def test_a_pickle_in_the_archive_is_never_loaded(exported: Exported, tmp_path: Path) -> None:
    """An archive that would make torch unpickle something is refused before torch sees it."""
    with zipfile.ZipFile(exported.folder / ITEM_TOWER) as source, zipfile.ZipFile(tmp_path / ITEM_TOWER, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"\x80\x02." if "sample_inputs" in name else source.read(name))
    with pytest.raises(ArtifactError, match="pickled data"):
        LoadedTower.open(tmp_path, exported.manifest)
    (tmp_path / ITEM_TOWER).write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        LoadedTower.open(tmp_path, exported.manifest)
