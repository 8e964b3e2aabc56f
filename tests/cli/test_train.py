from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from cli.main import main


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
