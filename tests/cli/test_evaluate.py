from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import evaluate
from cli.main import main


def _aif(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_the_recorded_run_is_printed() -> None:
    """Without --run the committed results come out: the gap on top, every log of the verdict below, as text too."""
    found = json.loads(_aif("evaluate", "--json").stdout)
    assert set(found["logs"]) == {*evaluate.LOGS, "globo-news"}
    gaps = {name: log["gap_recovered"]["value"] for name, log in found["logs"].items()}
    assert found["gap_recovered"] == min(gap for gap in gaps.values() if gap is not None)
    assert found["without_a_gap"] == [name for name, gap in gaps.items() if gap is None]
    assert all(len(log["seeds"]) >= 5 for log in found["logs"].values())
    one = json.loads(_aif("evaluate", "--json", "--log", "planted").stdout)
    assert list(one["logs"]) == ["planted"]
    text = _aif("evaluate").stdout
    assert all(f"## {name}" in text and log["command"] in text for name, log in found["logs"].items())


def test_the_recorded_tables_are_those_of_the_recorded_numbers() -> None:
    """docs/evaluation/results.md is what the command prints of the JSON files beside it."""
    assert (evaluate._RECORDED / "results.md").read_text() == _aif("evaluate").stdout


def test_a_run_is_written_and_read_again(mapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on any log, of passes and sizes that were asked for, writes its numbers and tables, and leaves no kept
    seeds; without --run they come out of that folder unchanged; a record of inputs that this build does not have is
    told from one of sizes asked for."""
    out = tmp_path / "evaluation"
    asked = ("--log", mapping, "--epochs", 2, "--size", "tiers=4", "--size", "din=none")
    ran = _aif("evaluate", "--run", "--small", *asked, "--out", out)
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in out.iterdir()) == ["results.md", f"{mapping.stem}.json"]
    assert "seed 1: step 1 of" in ran.stderr  # off a terminal too it says where it stands
    monkeypatch.setattr(evaluate, "_RECORDED", out)
    again = _aif("evaluate", "--json")
    (log,) = json.loads(again.stdout)["logs"].values()
    assert (log["seeds"], log["negatives"], again.stderr) == ([1, 2], "drawn", "")
    assert (log["sizes"], log["dimensions"]["tiers"]) == ({"tiers": 4, "din": "none"}, 4)
    assert log["command"].endswith("--small --epochs 2 --size tiers=4 --size din=none")
    assert _aif("evaluate").stdout == ran.stdout == (out / "results.md").read_text()

    file = next(out.glob("*.json"))
    log["dimensions"]["bridges"] += 1
    file.write_text(json.dumps(log))
    assert "other model inputs" in _aif("evaluate").stderr


def test_what_cannot_be_asked_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--small, --epochs or --size without --run, a size that is none, a log that was not recorded, and a project
    without a record end in a sentence."""
    assert _aif("evaluate", "--small").exit_code == _aif("evaluate", "--size", "tiers=4").exit_code == 2
    assert "--run" in _aif("evaluate", "--epochs", 2).output
    assert "tiers" in _aif("evaluate", "--run", "--log", "planted", "--size", "tiers=many").output
    monkeypatch.setattr(evaluate, "_RECORDED", tmp_path)
    refused = _aif("evaluate", "--log", "globo-news")
    assert (refused.exit_code, "aif evaluate --run" in refused.output) == (2, True)
