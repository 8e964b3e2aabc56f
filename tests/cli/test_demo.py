from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fleet import free_port, wait_for
from kafka import KafkaAdminClient
from rich.console import Console

from cli.demo_fleet import Fleet, stop_record
from cli.demo_page import page
from cli.demo_story import Cast, Story
from cli.local_broker import LocalBroker
from cli.main import main
from producers.datasets import open_dataset
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.topics import all_topics

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


def fleet_on(servers: str, data_dir: Path, prefix: str = "demo-test-") -> Fleet:
    """A demo's fleet that prints nothing."""
    outer = Deployment(bootstrap_servers=servers, data_dir=data_dir)
    return Fleet(outer, prefix, os.environ, Console(file=io.StringIO()))


def test_a_kept_demo_is_the_only_one_and_stop_deletes_its_topics(broker: Any, tmp_path: Path) -> None:
    """A second --keep is refused before and after its run, and --stop ends the first one, topics and folder too."""
    before = topics_of_demos(broker)
    options = ["--data-dir", str(tmp_path), "--bootstrap-servers", broker.bootstrap_servers]
    first, second = (fleet_on(broker.bootstrap_servers, tmp_path, f"demo-{uuid.uuid4().hex[:6]}-") for _ in range(2))
    try:
        first.start()
        first.run("server", "serve", "--port", str(first.server.port))
        second.start()
        assert len(topics_of_demos(broker) - before) == 2 * len(all_topics())
        first.keep()
        refused = CliRunner().invoke(main, ["demo", "--keep", *options])
        assert refused.exit_code == 2 and "end it with `aif demo --stop`" in refused.stderr
        with pytest.raises(BadInput, match="a demo is kept already"):
            second.keep()
        assert not second.kept
    finally:
        second.stop()
        stopped = CliRunner().invoke(main, ["demo", "--stop", *options])
    assert stopped.exit_code == 0 and stopped.stdout == "stopped server\n"
    assert topics_of_demos(broker) <= before
    assert not started_by(tmp_path) and not list((tmp_path / "demo").iterdir())
    assert "no kept demo" in stop_record(Deployment(data_dir=tmp_path))


def test_topics_go_from_a_broker_that_the_demo_started(tmp_path: Path) -> None:
    """The data of the demo's own broker outlives the demo; its topics do not."""
    fleet = fleet_on(f"127.0.0.1:{free_port()}", tmp_path)
    try:
        fleet.start()
    finally:
        fleet.stop()
    again = LocalBroker(tmp_path, os.environ)
    assert again.process is None
    try:
        again.start()
        assert not topics_of_demos(again)
    finally:
        again.stop()


def test_a_demo_whose_queries_all_fail_says_so(tmp_path: Path) -> None:
    """Without one answered query the page still comes, with the errors counted and no stage."""
    fleet = fleet_on("127.0.0.1:1", tmp_path)
    story = Story(fleet, Console(file=io.StringIO()), "online-retail-sample", None, LIMIT, queries=3)
    story._query(Cast.of(iter(open_dataset("online-retail-sample", limit=50).entries())))
    summary = story._summary
    assert (summary.errors, summary.stage_ms) == (3, {})
    summary.freshness_ms = {"p50": None, "p99": None}
    summary.seconds = {"replay": 1.0, "train": 1.0}
    assert "queries 3, errors 3" in page(summary, fleet, 1.0)


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
