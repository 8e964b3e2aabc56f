from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import main
from schemas.deployment import Deployment


def _options(deployment: Deployment) -> list[str]:
    servers, prefix = deployment.bootstrap_servers, deployment.prefix
    return [
        "--bootstrap-servers", servers, "--prefix", prefix, "--partitions", str(deployment.partitions),
        "--data-dir", str(deployment.data_dir),
    ]  # fmt: skip


def test_mistakes_are_one_sentence() -> None:
    """Unknown data sets, speeds and times exit with 2 and one line that names what is wrong."""
    for arguments, named in (
        (["nope"], "online-retail-sample"),
        (["online-retail-sample", "--speed", "fast"], "--speed"),
        (["online-retail-sample", "--from", "yesterday"], "--from"),
    ):
        result = CliRunner().invoke(main, ["replay", *arguments])
        assert result.exit_code == 2 and named in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.broker
def test_summary_as_json_is_the_last_line(deployment: Deployment) -> None:
    """--json ends standard output with one object that has counts and the last offsets per topic."""
    assert CliRunner().invoke(main, ["topics", "create", *_options(deployment)]).exit_code == 0
    result = CliRunner().invoke(
        main, ["replay", "online-retail-sample", "--limit", "50", "--json", *_options(deployment)]
    )
    summary = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0 and summary["complete"] and summary["events"] == 50
    assert sum(offset + 1 for offset in summary["offsets"]["user-events"].values()) == 50


@pytest.mark.broker
def test_ctrl_c_says_how_to_go_on(deployment: Deployment, tmp_path: Path) -> None:
    """An interrupt ends in order with 130 and the command to resume, and that command sends the rest."""
    assert CliRunner().invoke(main, ["topics", "create", *_options(deployment)]).exit_code == 0
    arguments = ["replay", "online-retail-sample", "--limit", "200", *_options(deployment)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments, "--speed", "1x"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "AIF_PREFIX": ""},
    )  # fmt: skip
    position = tmp_path / "replay" / f"{deployment.prefix}online-retail-sample.json"
    try:
        while process.poll() is None and not (position.is_file() and json.loads(position.read_text())["entries"]):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "--resume" in stderr
    result = CliRunner().invoke(main, [*arguments, "--resume", "--json"])
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["complete"] and summary["skipped"] > 0
    assert sum(offset + 1 for offset in summary["offsets"]["user-events"].values()) == 200
