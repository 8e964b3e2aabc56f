"""The real `aif serve`, and what its answers cost over HTTP.

The server has one core to itself, this process, which is the client, another one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from bench.job import free_port, pinned
from bench.open_loop import post
from bench.serving_world import TOP_K, World, user_id
from schemas.deployment import Deployment
from schemas.errors import Unavailable
from serving.web.binary import MEDIA_TYPE, BinaryRequest, encode_request

__all__ = ["Server", "binary_requests", "json_requests", "served"]

_READY_WITHIN_S: Final = 300.0
_STOP_WITHIN_S: Final = 20.0
_POLL_S: Final = 0.005
#: The user state is made anew for another minute of the request.
_MINUTE_MS: Final = 60_000
#: Nobody listens there: the server starts from the tables of its data folder.
_NO_BROKER: Final = "127.0.0.1:1"


class Server:
    """A running `aif serve`."""

    def __init__(self, deployment: Deployment, log: Path, core: int | None) -> None:
        """On a deployment whose workers' tables are in its data folder; what it says goes to `log`."""
        self.port = free_port()
        self._log = log
        command = [
            sys.executable, "-m", "cli.main", "serve", "--port", str(self.port),
            "--data-dir", str(deployment.data_dir), "--partitions", str(deployment.partitions),
            "--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix,
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIF_")}
        with self._log.open("ab") as lines, pinned(core):
            started_s = time.perf_counter()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines, env=environment, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.ready_after_ms = 1000 * (time.perf_counter() - started_s)

    def get(self, path: str) -> Any:
        """The JSON of a route."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return orjson.loads(answer.read())

    @property
    def memory_mb(self) -> float:
        """Resident memory of the server's processes, pages that they share counted once."""
        return sum(_proportional_kb(process) for process in _family(self._process.pid)) / 1024

    def stop(self) -> None:
        """End it, in good order where it can, and whatever it has started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _wait_until_ready(self) -> None:
        until_s = time.monotonic() + _READY_WITHIN_S
        says = ""
        while time.monotonic() < until_s:
            if (status := self._process.poll()) is not None:
                raise Unavailable(f"`aif serve` ended with {status} before it was ready:\n{self._tail()}")
            try:
                self.get("/readyz")
                return
            except urllib.error.HTTPError as error:
                says = error.read().decode()
            except OSError as error:
                says = str(error)
            time.sleep(_POLL_S)
        raise Unavailable(f"`aif serve` was not ready after {_READY_WITHIN_S:.0f} s ({says}):\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])


@contextmanager
def served(world: World, core: int | None) -> Iterator[Server]:
    """A ready server over a filled folder, without a broker, while the block runs."""
    deployment = Deployment(bootstrap_servers=_NO_BROKER, partitions=1, data_dir=world.data_dir)
    server = Server(deployment, world.folder / "server.log", core)
    try:
        yield server
    finally:
        server.stop()


def binary_requests(world: World, number: int, candidates: int, *, cached: bool) -> list[bytes]:
    """Requests of the users with 1,024 behaviours in turn; one that is not `cached` is of another minute each time."""
    return [
        post(
            "/v1/rank",
            MEDIA_TYPE,
            encode_request(BinaryRequest(user, world.item_ids[world.candidates(candidates, each)], TOP_K, at_ms)),
        )
        for each, (user, at_ms) in enumerate(_users(world, number, cached))
    ]


def json_requests(world: World, number: int, candidates: int) -> list[bytes]:
    """The same with JSON bodies, the user state cached."""
    return [
        post(
            "/v1/rank",
            "application/json",
            orjson.dumps(
                {
                    "user_id": user,
                    "candidates": world.item_ids[world.candidates(candidates, each)].tolist(),
                    "top_k": TOP_K,
                    "at_ms": at_ms,
                }
            ),
        )
        for each, (user, at_ms) in enumerate(_users(world, number, True))
    ]


def _users(world: World, number: int, cached: bool) -> Iterator[tuple[int, int]]:
    length = world.check_behaviours
    for each in range(number):
        yield user_id(length, each % world.users), world.at_ms + (0 if cached else (1 + each) * _MINUTE_MS)


def _family(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found.extend(_family(int(child)))
    return found


def _proportional_kb(process: int) -> int:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(rollup.partition("Pss:")[2].split()[0])
