from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import n2o_records, n2o_rows, user_rows
from tests.serving.feeding.test_feed import ITEMS, item_rows, write_tables

# Runs the command as the console script does and says at its end what it had loaded.
RUN = (
    "import atexit, json, sys\n"
    "atexit.register(lambda: print('LOADED ' + json.dumps(sorted(sys.modules))))\n"
    "from cli.main import main\n"
    "main(sys.argv[1:])\n"
)


class Served:
    """A running `aif serve`."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, "serve", "--port", "0", "--bootstrap-servers", "127.0.0.1:9", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        self.url = self._find_url()

    def _find_url(self) -> str:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            for line in self.log:
                if "http://" in line:
                    return line.split()[line.split().index("serve:") + 1]
            time.sleep(0.02)
        raise AssertionError(f"no address in the log: {self.log}")

    def until(self, path: str, status: int, within_s: float = 30) -> httpx.Response:
        """Ask until the status comes."""
        end_s = time.monotonic() + within_s
        while True:
            try:
                response = httpx.get(self.url + path)
                if response.status_code == status:
                    return response
                found = response.text
            except httpx.TransportError as error:
                found = str(error)
            assert time.monotonic() < end_s, found
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Signal it; its standard output."""
        self.process.send_signal(number)
        out = self.process.stdout.read()
        self.process.wait(30)
        self._reader.join(5)
        return out


@pytest.fixture
def served(make_artifact, tmp_path) -> Iterator[Served]:
    """A server over local tables, whose broker does not answer."""
    artifact = make_artifact(1)
    tables = {
        "items": item_rows(ITEMS),
        "n2o_a": n2o_rows(n2o_records(artifact.manifest.version_tag, ITEMS)),
        "users": user_rows(1, [200, 201]),
    }
    write_tables(tmp_path / "tables", tables, partitions=2, offset=100)
    server = Served("--partitions", "2", "--data-dir", str(tmp_path), "--most-body-kb", "16")
    yield server
    server.process.kill()
    server.process.wait()


def test_it_serves_over_http_without_torch_and_faust_and_ends_in_good_order(served) -> None:
    """Ready from local tables, a ranked answer, a body refused that is longer than it was told to take, exit 0 on
    SIGTERM; neither torch nor faust was ever loaded."""
    served.until("/readyz", 200)
    body = {"user_id": 1, "candidates": list(ITEMS), "top_k": 3}
    response = httpx.post(served.url + "/v1/rank", json=body)
    assert response.status_code == 200 and len(response.json()["items"]) == 3
    assert httpx.post(served.url + "/v1/rank", content=b" " * (16 << 10) + b"{").status_code == 413
    out = served.end()
    assert served.process.returncode == 0, served.log
    loaded = set(json.loads(out.split("LOADED ")[1]))
    assert {"serving.web.server", "onnxruntime", "httptools", "lmdb"} <= loaded
    assert not {name.partition(".")[0] for name in loaded} & {"torch", "faust", "mode", "models", "streams", "onnx"}
    assert "stopped" in served.log[-1]
    assert "Traceback" not in "".join(served.log)


def test_requests_under_way_are_answered_before_it_ends(served) -> None:
    """SIGTERM while a request's body is still coming: it is answered, and only then the process ends."""
    served.until("/readyz", 200)
    body = json.dumps({"user_id": 1, "candidates": list(ITEMS)}).encode()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body[:10])
        time.sleep(0.2)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(body[10:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"200 OK" in answer and b"model_version" in answer
    assert served.process.wait(10) == 0


def test_without_anything_it_lives_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    """No broker, no tables: alive, not ready, and both the log and /readyz name the address within 10 s."""
    server = Served("--data-dir", str(tmp_path))
    try:
        assert server.until("/livez", 200).json() == {"live": True}
        server.until("/readyz", 503)
        end_s = time.monotonic() + 10
        while "127.0.0.1:9" not in httpx.get(server.url + "/readyz").json()["detail"]:
            assert time.monotonic() < end_s
            time.sleep(0.1)
        assert httpx.post(server.url + "/v1/rank", json={"user_id": 1, "candidates": [1]}).status_code == 503
        server.end(signal.SIGINT)
        assert server.process.returncode == 0
        assert any("no Kafka broker answers at 127.0.0.1:9" in line for line in server.log)
    finally:
        server.process.kill()


def test_a_taken_port_is_said_and_ends_it(tmp_path: Path) -> None:
    """Exit 2 with the address and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "serve", "--port", port, "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr and "--port" in done.stderr
