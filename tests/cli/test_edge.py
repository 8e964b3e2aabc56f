"""`aif edge` from an artifact and a file of items, or the tables of workers, to the best items of a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cli.main import main
from domain.partitioner import partition_of
from models.aif import AIF
from models.config import ModelConfig
from models.export import Exported, export
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key, hashed_id
from serving.edge_bundle import read_bundle
from streams.datadir import claim
from streams.store import Store

_ITEMS = [
    {"item_id": number, "title": f"thing number {number}", "price": number + 0.5, "category_id": number % 3}
    for number in range(20)
] + [{"item_id": "SKU-1", "embedding": [0.5] * 64, "numeric": {"weight": 2.5}}]


def _aif(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["edge", *map(str, arguments)])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A small model that nobody trained."""
    torch.manual_seed(0)
    model = AIF(ModelConfig(category_buckets=32, tower_hidden=32, vector_dim=16, bridges=4, hidden=(32, 16)))
    return export(model, {}, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Twenty-one items, one of them named by a string."""
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, _ITEMS)) + "\n")
    return path


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A user who did three things, one of them to an item that nobody knows."""
    events = [{"item_id": each, "action": "click", "event_time_ms": 1_700_000_000_000 + each} for each in (3, 7, 999)]
    path = tmp_path / "user.json"
    path.write_text(json.dumps({"events": events}))
    return path


def test_a_bundle_of_a_file_scores(artifact: Exported, items: Path, user: Path, tmp_path: Path) -> None:
    """Items of a file become rows of the model; scoring prints the best with titles, and what of the user was used."""
    bundle = tmp_path / "bundle.aif"
    made = _aif("build", artifact.folder, "--items", items, "--out", bundle, "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["items"] == 21
    done = _aif("score", bundle, "--user", user, "--top-k", 5, "--json")
    found = json.loads(done.stdout)
    assert (len(found["items"]), found["behaviours_used"], found["behaviours_missing"]) == (5, 2, 1)
    scores = [each["score"] for each in found["items"]]
    assert scores == sorted(scores, reverse=True)
    text = _aif("score", bundle, "--user", user, "--top-k", 21)
    assert "thing number 7" in text.stdout and str(hashed_id("SKU-1")) in text.stdout
    assert "2 behaviours used, 1 are of items outside the bundle" in text.stderr


def test_the_best_for_nobody_are_kept(artifact: Exported, items: Path, tmp_path: Path) -> None:
    """--top keeps the items that score best for a user of whom nothing is known."""
    (tmp_path / "nobody.json").write_text('{"events": []}')
    for name, options in (("all", []), ("few", ["--top", 4])):
        assert _aif("build", artifact.folder, "--items", items, "--out", tmp_path / name, *options).exit_code == 0
    best = json.loads(_aif("score", tmp_path / "all", "--user", tmp_path / "nobody.json", "--json").stdout)["items"][:4]
    kept = json.loads(_aif("score", tmp_path / "few", "--user", tmp_path / "nobody.json", "--json").stdout)["items"]
    assert kept == best


def test_a_bundle_of_tables_has_the_workers_rows(artifact: Exported, items: Path, user: Path, tmp_path: Path) -> None:
    """Rows of the model's version come from this machine's tables as they are, with the catalogue's titles."""
    _aif("build", artifact.folder, "--items", items, "--out", tmp_path / "file.aif")
    made = read_bundle(tmp_path / "file.aif")
    other = made.records.copy()
    other["version"] += 1
    deployment = Deployment(data_dir=tmp_path / "data")
    worker = deployment.data_dir / "tables" / "w"
    os.close(claim(worker, deployment))
    for partition in range(deployment.partitions):
        rows: dict[str, list[Any]] = {"n2o_a": [], "n2o_b": [], "n2o_c": [], "items": []}
        for place, item in enumerate(made.records["item_id"].tolist()):
            if partition_of(item, deployment.partitions) == partition:
                records = made.records if item != 5 else other  # one row is still of another model
                rows["n2o_b"].append((entity_key(item), codec("n2o_row").encode({"record": records[place].tobytes()})))
                title = None if item % 2 else f"title {item}"
                rows["items"].append((entity_key(item), codec("item_row").encode(_item_row(item, title))))
        for table, of_table in rows.items():
            store = Store(worker / f"{table}-{partition}.db")
            store.put_many(of_table, 1)
            store.close()
    done = _aif(
        "build", artifact.folder, "--items", "tables", "--out", tmp_path / "tables.aif", "--json", "--data-dir",
        deployment.data_dir,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = read_bundle(tmp_path / "tables.aif")
    kept = made.take(np.flatnonzero(made.records["item_id"] != 5))
    assert found.records.tobytes() == kept.records.tobytes()
    assert found.titles[:4] == ["title 0", None, "title 2", None]
    empty = _aif(
        "build", artifact.folder, "--items", "tables", "--out", tmp_path / "x", "--data-dir", tmp_path / "none"
    )
    assert empty.exit_code == 2 and "no worker" in empty.stderr


def test_bundles_and_items_that_cannot_be_used_are_named(artifact: Exported, user: Path, tmp_path: Path) -> None:
    """A file that is no bundle, and items that cannot be, end in one sentence with file, line and field."""
    assert "cannot be read as an edge bundle" in _aif("score", user, "--user", user).stderr
    path = tmp_path / "bad.jsonl"
    for line, said in (
        ("{", "line 2 is no JSON"),
        ('{"item_id": 5, "cost": 3}', "line 2 must be an object of"),
        ('{"title": "x"}', "line 2: item_id must be"),
        ('{"item_id": 5, "price": "3"}', "line 2: price must be a number"),
        ('{"item_id": 5, "embedding": [1, 2]}', "line 2: embedding must be 64 numbers"),
        ('{"item_id": 5, "numeric": {"a": "b"}}', "line 2: numeric must be"),
    ):
        path.write_text('{"item_id": 1}\n' + line + "\n")
        refused = _aif("build", artifact.folder, "--items", path, "--out", tmp_path / "out.aif")
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "out.aif").exists()


def test_scoring_loads_neither_torch_nor_kafka(artifact: Exported, items: Path, user: Path, tmp_path: Path) -> None:
    """A process that scores a bundle has no torch, no RocksDB, no Kafka client and no web server in it."""
    bundle = tmp_path / "bundle.aif"
    _aif("build", artifact.folder, "--items", items, "--out", bundle)
    code = (
        "import sys\nfrom cli.main import main\n"
        f"main(['edge', 'score', {str(bundle)!r}, '--user', {str(user)!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'rocksdict', 'aiokafka', 'kafka', 'faust', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def _item_row(item: int, title: str | None) -> dict[str, Any]:
    return {
        "item_id": item, "event_time_ms": 0, "source_topic_id": 1, "source_offset": 0, "deleted": False,
        "original_id": None, "title": title, "category_id": None, "price": None, "published_ms": None,
        "embedding": None, "numeric": {}, "signature": None, "signature_version": "",
    }  # fmt: skip
