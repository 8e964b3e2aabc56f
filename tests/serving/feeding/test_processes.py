from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import item_rows, n2o_records, n2o_rows, user_rows
from tests.serving.feeding.test_feed import ITEMS, write_tables
from tests.serving.web.test_server import Served


def children(process: int) -> list[int]:
    """The processes that one has started and that have not ended, in their order."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in listed if not _ended(int(child))]


def _ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def replaced(parent: int, killed: int) -> bool:
    """Whether a killed child is gone and another one is there for it."""
    now = children(parent)
    return len(now) == 3 and killed not in now


def until(holds: Callable[[], object], within_s: float = 40.0) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def tables(make_artifact, tmp_path) -> Path:
    """A data directory with workers' tables of a model, items and a user, and no broker."""
    artifact = make_artifact(1)
    rows = {
        "items": item_rows(ITEMS),
        "n2o_a": n2o_rows(n2o_records(artifact.manifest.version_tag, ITEMS)),
        "users": user_rows(1, [200, 201]),
    }
    write_tables(tmp_path / "tables", rows, partitions=2, offset=100)
    return tmp_path


def start(folder: Path) -> Served:
    """A server with two scoring processes."""
    return Served("--partitions", "2", "--data-dir", str(folder), "--workers", "2")


def rank(server: Served) -> dict:
    """Rank on a connection of its own, so that either process may answer."""
    response = httpx.post(server.url + "/v1/rank", json={"user_id": 1, "candidates": list(ITEMS), "top_k": 3})
    assert response.status_code == 200, response.text
    return response.json()


def test_whoever_is_killed_is_started_again_and_answers_go_on(tables: Path) -> None:
    """kill -9 of a scoring process, then of the feeder: the same answers, without a pause; SIGTERM ends all, exit 0."""
    server = start(tables)
    try:
        server.until("/readyz", 200, within_s=40)
        expected, (feeder, *scorers) = rank(server)["items"], children(server.process.pid)
        assert len(scorers) == 2
        os.kill(scorers[0], signal.SIGKILL)
        until(lambda: replaced(server.process.pid, scorers[0]))
        os.kill(feeder, signal.SIGKILL)
        for _ in range(20):
            assert rank(server)["items"] == expected
        until(lambda: replaced(server.process.pid, feeder))
        until(lambda: any("rows checked" in line for line in server.log))
        everyone = children(server.process.pid)
        server.end()
        assert server.process.returncode == 0, server.log
        assert all(map(_ended, everyone))
        assert sum("is started again" in line for line in server.log) == 2
    finally:
        server.process.kill()


def test_a_restart_reads_its_own_state_and_only_that(tables: Path) -> None:
    """After kill -9 of the parent nobody is left; the next server answers the same without tables or broker."""
    server = start(tables)
    server.until("/readyz", 200, within_s=40)
    expected, everyone = rank(server)["items"], children(server.process.pid)
    server.process.kill()
    server.process.wait()
    until(lambda: all(map(_ended, everyone)))
    (tables / "tables").rename(tables / "moved")
    again = start(tables)
    try:
        again.until("/readyz", 200, within_s=40)
        assert rank(again)["items"] == expected
        assert any(f"{len(ITEMS)} rows checked" in line for line in again.log), again.log
        again.end()
    finally:
        again.process.kill()


def test_a_damaged_state_is_said_and_made_anew(tables: Path) -> None:
    """A file that was cut between two starts: the log names it, and the state is filled again from the tables."""
    server = start(tables)
    server.until("/readyz", 200, within_s=40)
    expected = rank(server)["items"]
    server.end()
    [rows] = (tables / "serving").glob("*/state-1/rows.lmdb")
    with rows.open("r+b") as file:
        file.truncate(rows.stat().st_size // 2)
    again = start(tables)
    try:
        again.until("/readyz", 200, within_s=40)
        assert rank(again)["items"] == expected
        assert any("rows.lmdb has" in line and "was cut" in line for line in again.log), again.log
        assert [path.name for path in rows.parent.parent.glob("state-*")] == ["state-2"]
        again.end()
    finally:
        again.process.kill()
