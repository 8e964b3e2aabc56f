from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import main


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    """A mapping with a small log of its own: 20 users buy among 12 items for a day."""
    random = np.random.default_rng(0)
    lines = ["at,user,item,title,price"]
    for second in range(0, 86_400, 300):
        item = int(random.integers(12))
        lines.append(f"{1_700_000_000 + second},{random.integers(20)},{item},thing number {item},{item + 1}")
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    content = {
        "name": "shop",
        "about": "A shop for one test",
        "licence": "none",
        "source": {"file": "shop.csv", "rows": 288, "sorted": True, "time": {"column": "at", "unit": "s"}},
        "events": {
            "user": {"column": "user", "id": "int"},
            "item": {"column": "item", "id": "int"},
            "actions": {"constant": "purchase"},
        },
        "items": {
            "from": "events",
            "changes": ["price", "title"],
            "title": "title",
            "price": "price",
            "embedding": {"text": ["title"]},
        },
    }
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(content))
    return path


def _aif(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_train_writes_an_artifact_that_inspects_and_checks(mapping: Path, tmp_path: Path) -> None:
    """One command makes an artifact from a log and a mapping; inspect shows its training, check runs its parts."""
    done = _aif("train", "--dataset", mapping, "--epochs", 1, "--json", "--data-dir", tmp_path / "data")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert Path(result["folder"]) == tmp_path / "data" / "artifacts" / result["version"]

    shown = _aif("artifact", "inspect", result["folder"], "--json")
    manifest = json.loads(shown.stdout)
    assert manifest["version"] == result["version"]
    assert manifest["training"]["dataset"] == "shop"
    assert manifest["training"]["metrics"]["auc"] == result["auc"]
    assert result["version"] in _aif("artifact", "inspect", result["folder"]).stdout

    checked = _aif("artifact", "check", result["folder"])
    assert (checked.exit_code, result["version"] in checked.stdout) == (0, True)

    again = _aif("train", "--dataset", mapping, "--epochs", 1, "--out", tmp_path / "again")
    assert result["version"] in again.stdout

    head = Path(result["folder"]) / "head.npz"
    head.write_bytes(head.read_bytes()[:-1])
    refused = _aif("artifact", "check", result["folder"])
    assert refused.exit_code == 2
    assert "head.npz" in refused.stderr


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    """An unknown data set and a folder without an artifact end with exit code 2 and one line that says which."""
    for arguments in (["train", "--dataset", "nowhere"], ["artifact", "check", tmp_path]):
        refused = _aif(*arguments)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("aif: ") and refused.stderr.count("\n") == 1


def test_help_has_examples() -> None:
    """Both commands show how to be called."""
    assert "aif train --dataset" in _aif("train", "--help").stdout
    assert "aif artifact check" in _aif("artifact", "--help").stdout
