from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.code_version import code_version
from cli.main import main
from schemas.codec import codec
from serving.kernels import available


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
    targets = json.loads(_aif("artifact", "check", result["folder"], "--json").stdout)["targets"]
    assert [each["part"] for each in targets][:3] == ["item_tower.pt2", "user_phase.onnx", "head.npz"]
    assert [each["runs_on"].split(",")[0] for each in targets[2:]] == [each.name for each in available()]
    assert all(0 <= each["difference"] <= each["allowed"] for each in targets)

    state = tmp_path / "weights.npz"
    again = _aif("train", "--dataset", mapping, "--epochs", 1, "--out", tmp_path / "again", "--state", state)
    assert result["version"] in again.stdout
    assert result["version"] in _aif("artifact", "export", state, "--out", tmp_path / "exported").stdout

    head = Path(result["folder"]) / "head.npz"
    head.write_bytes(head.read_bytes()[:-1])
    refused = _aif("artifact", "check", result["folder"])
    assert refused.exit_code == 2
    assert "head.npz" in refused.stderr


def test_a_manifest_says_how_the_model_was_made(mapping: Path, tmp_path: Path) -> None:
    """Data window, every option, calibration, teacher, code and schemas are in the manifest of a taught model."""
    taught = ("--distill", "--align", 0.25, "--choose-bridges")
    done = _aif("train", "--dataset", mapping, "--epochs", 1, *taught, "--json", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    shown = json.loads(_aif("artifact", "inspect", json.loads(done.stdout)["folder"], "--json").stdout)["training"]
    assert (shown["distill"], shown["align"], shown["seed"], shown["held_out"]) == (0.5, 0.25, 1, 0.1)
    assert shown["choose_bridges"] == 0.05
    window = [shown[f"{name}_ms"] for name in ("first_event", "trained_from", "judged_from", "last_event")]
    assert window == sorted(window) and window[0] == 1_700_000_000_000
    assert shown["calibration"] is None or shown["calibration"]["slope"] > 0
    assert 0 <= shown["metrics"]["teacher_gauc"] <= 1
    assert shown["code"] == code_version()
    assert shown["schemas"]["user_event"] == codec("user_event").fingerprint.hex()


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    """An unknown data set and a folder without an artifact end with exit code 2 and one line that says which."""
    for arguments in (
        ["train", "--dataset", "nowhere"],
        ["artifact", "check", tmp_path],
        ["artifact", "export", tmp_path / "nothing.npz"],
    ):
        refused = _aif(*arguments)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("aif: ") and refused.stderr.count("\n") == 1


def test_help_has_examples() -> None:
    """Both commands show how to be called."""
    assert "aif train --dataset" in _aif("train", "--help").stdout
    assert "aif artifact check" in _aif("artifact", "--help").stdout


def test_a_model_of_other_sizes_is_trained_and_checked(
    mapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes of the recorded shop evaluation train, export and pass the check of every part; the manifest says which
    were asked for. A size that workers share is refused, because its variable decides it."""
    monkeypatch.setenv("AIF_SIGNATURE_BITS", "256")
    sizes = ("--size", "tiers=16", "--size", "din=none")
    done = _aif("train", "--dataset", mapping, "--epochs", 1, *sizes, "--json", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    folder = json.loads(done.stdout)["folder"]
    manifest = json.loads(_aif("artifact", "inspect", folder, "--json").stdout)
    assert manifest["training"]["sizes"] == {"tiers": 16, "din": "none"}
    assert (manifest["dimensions"]["tiers"], manifest["dimensions"]["signature_bits"]) == (16, 256)
    targets = json.loads(_aif("artifact", "check", folder, "--json").stdout)["targets"]
    assert all(0 <= each["difference"] <= each["allowed"] for each in targets)

    refused = _aif("train", "--dataset", mapping, "--size", "signature_bits=128")
    assert (refused.exit_code, "AIF_*" in refused.output) == (2, True)
