from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import wait_for
from kafka import KafkaAdminClient

from producers.datasets import open_dataset

pytestmark = [pytest.mark.broker, pytest.mark.timeout(280)]

LIMIT = 6_000


@contextmanager
def demo(broker: Any, data_dir: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`aif demo` in a process group of its own, as a terminal starts it."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", "demo", "--limit", str(LIMIT), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "AIF_BOOTSTRAP_SERVERS": broker.bootstrap_servers, "AIF_DATA_DIR": str(data_dir)},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid in started_by(data_dir):
            os.kill(pid, signal.SIGKILL)


def started_by(data_dir: Path) -> dict[int, list[str]]:
    """Command lines of the living processes whose deployment is in a folder, by pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            arguments = (folder / "cmdline").read_text().split("\0")
        except OSError:  # ended meanwhile, or not ours
            continue
        if f"AIF_DATA_DIR={data_dir}/demo/".encode() in environment and any(arguments):
            found[int(folder.name)] = arguments
    return found


def topics_of_demos(broker: Any) -> set[str]:
    """Topics on the broker that belong to a demo."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        return {topic for topic in admin.list_topics() if topic.startswith("demo-")}
    finally:
        admin.close()


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a local port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_summary_agrees_with_the_log(broker: Any, tmp_path: Path) -> None:
    """The demo ends with 0 and one JSON object whose counts are those of the log, and leaves nothing behind."""
    topics = topics_of_demos(broker)
    with demo(broker, tmp_path, "--json", "--queries", "25") as process:
        stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    entries = list(open_dataset("online-retail-sample", limit=LIMIT).entries())
    assert summary["events_in"] == len(entries)
    assert summary["items"] == len({record["item_id"] for kind, record in entries if kind == "item"})
    assert summary["users"] == len({record["user_id"] for kind, record in entries if kind == "user"})
    assert (summary["dead_letters"], summary["errors"], summary["queries"]) == (0, 0, 25)
    assert len(summary["model_version"]) == 16 and int(summary["model_version"], 16)
    for figures in (summary["freshness_ms"], summary["rank_ms"]):
        assert 0 < figures["p50"] <= figures["p99"] < 60_000
    assert max(map(len, stdout.splitlines()[:-1])) <= 100 and summary["model_version"] in stdout
    assert not started_by(tmp_path) and not list((tmp_path / "demo").iterdir())
    assert topics_of_demos(broker) <= topics


@pytest.mark.parametrize("stage", ["serve", "train"])
def test_ctrl_c_ends_everything_that_was_started(broker: Any, tmp_path: Path, stage: str) -> None:
    """Ctrl-C, early or while it trains, leaves no process, no open port, no folder and no topic of the demo."""
    topics = topics_of_demos(broker)
    with demo(broker, tmp_path) as process:
        wait_for(lambda: any(stage in each for each in started_by(tmp_path).values()), 60, lambda: f"no {stage} came")
        started = started_by(tmp_path)
        if stage == "train":
            time.sleep(1)  # well into it
        else:
            assert len(started) == 2 and not any("train" in each for each in started.values())
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGINT), stderr
    assert "Traceback" not in stderr
    assert not started_by(tmp_path)
    options = ("--port", "--web-port")
    ports = [int(each[each.index(name) + 1]) for each in started.values() for name in options if name in each]
    assert len(ports) == 2 and not any(map(listens, ports))
    assert not list((tmp_path / "demo").iterdir())
    assert topics_of_demos(broker) <= topics
