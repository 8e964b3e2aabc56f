"""Apache Kafka as one JVM on this machine: started, found again by any later command, stopped.

Everything lives under `<data_dir>/broker`: data, logs, server.properties, ports.json (kept, so that the address
stays) and broker.json (what runs now: address, pid, start time; other commands read the address there).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import random
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from cli.broker_probe import answers
from cli.kafka_jars import java, kafka_jars, recipe
from cli.options import broker_record
from cli.processes import Process, spawn
from schemas.errors import Corrupt, Unavailable

__all__ = ["LocalBroker"]

_HEAP: Final = "-Xmx512m"
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
#: Below the range from which systems draw ports of outgoing connections (32768 on Linux): while the broker is down,
#: none can take its port, and no client that retries can connect to itself.
_PORTS: Final = range(20_000, 32_000)


class LocalBroker:
    """The local broker of one data folder. `env` is the environment for Java and Maven."""

    def __init__(self, data_dir: Path, env: Mapping[str, str]) -> None:
        self._env = env
        self._home = data_dir.absolute() / "broker"
        self._record = broker_record(data_dir.absolute())
        self.log_file = self._home / "broker.log"
        self._console = self._home / "console.log"

    @property
    def process(self) -> Process | None:
        """The broker's process where it runs, else None."""
        record = self._read(self._record)
        if record is None:
            return None
        process = Process(record["pid"], record["started"])
        return process if process.alive() else None

    @property
    def bootstrap_servers(self) -> str:
        """Its address, which survives restarts. Raises Unavailable when it was never started."""
        ports = self._read(self._home / "ports.json")
        if ports is None:
            raise Unavailable(f"there is no local broker in {self._home}; start one with `aif broker start`")
        return f"127.0.0.1:{ports['port']}"

    def start(self) -> bool:
        """Runs the broker and returns when it answers; False when it ran already.

        Raises Unavailable: no Java or Maven, no download, or the broker did not answer (with its last log lines).
        """
        self._home.mkdir(parents=True, exist_ok=True)
        with self._alone():
            process = self.process
            already = process is not None
            if process is None:
                process = self._launch()
            self._await_answer(process)
            return not already

    def stop(self) -> bool:
        """Shuts it down in order; False when it did not run."""
        with self._alone():
            process = self.process
            stopped = process is not None and process.stop(_STOP_TIMEOUT_S)
            self._record.unlink(missing_ok=True)
            return stopped

    def kill(self) -> None:
        """Ends it at once, as a crash would (SIGKILL): nothing is flushed, and the record stays."""
        process = self.process
        if process is not None and process.send(signal.SIGKILL):
            process.wait(_STOP_TIMEOUT_S)

    def answers(self, within_s: float) -> bool:
        """Whether it answers a metadata request before `within_s` has passed."""
        return answers(self.bootstrap_servers, within_s)

    def last_lines(self, count: int) -> list[str]:
        """The newest lines of its console (where the JVM itself complains) and of its log."""
        return [line for path in (self._console, self.log_file) if path.exists() for line in _tail(path, count)]

    def _launch(self) -> Process:
        java_path, jars = java(self._env), kafka_jars(self._env)
        ports = self._choose_ports()
        properties = self._home / "server.properties"
        properties.write_text(Template(recipe("server.properties")).substitute(ports, data=self._home / "data"))
        logging = self._home / "log4j2.properties"
        logging.write_text(recipe("log4j2.properties"))
        command = [java_path, f"-Daif.broker.log={self.log_file}", f"-Dlog4j2.configurationFile={logging}"]
        command += ["-cp", f"{jars}/*"]
        if not (self._home / "data" / "meta.properties").exists():
            self._format(command, properties)
        process = spawn([*command, _HEAP, "kafka.Kafka", str(properties)], self._console, self._env)
        address = f"127.0.0.1:{ports['port']}"
        self._write(self._record, {"bootstrap_servers": address, "pid": process.pid, "started": process.started})
        return process

    def _format(self, command: list[str], properties: Path) -> None:
        # An id that begins with a dash would be read as an option.
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        storage_tool = ["-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"]
        arguments = ["--cluster-id", cluster, "--config", str(properties), "--ignore-formatted"]
        done = subprocess.run(
            [*command, *storage_tool, *arguments], env=dict(self._env), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Unavailable(
                f"formatting {self._home / 'data'} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}"
            )

    def _await_answer(self, process: Process) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.alive() and time.monotonic() < deadline:
            # The client backs off after a refusal; a bare connect notices the open port at once.
            if _accepts(self.bootstrap_servers) and self.answers(within_s=2.0):
                return
            time.sleep(0.05)
        state = f"does not answer after {_START_TIMEOUT_S:.0f} s" if process.alive() else "ended while it started"
        process.stop(_STOP_TIMEOUT_S)
        self._record.unlink(missing_ok=True)
        lines = "\n".join(self.last_lines(12))
        raise Unavailable(
            f"the local broker at {self.bootstrap_servers} {state}; its log, {self.log_file}, ends:\n{lines}"
        )

    def _choose_ports(self) -> dict[str, int]:
        remembered = self._read(self._home / "ports.json")
        if remembered is not None and all(map(_free, remembered.values())):
            return remembered
        free = (port for port in random.sample(_PORTS, len(_PORTS)) if _free(port))
        ports = {"port": next(free), "controller_port": next(free)}
        self._write(self._home / "ports.json", ports)
        return ports

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two commands at once take turns: the second finds what the first started."""
        if not self._home.exists():
            yield
            return
        with (self._home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Corrupt(
                f"{path} should be JSON written by `aif broker`: {error}; delete it and start again"
            ) from error
        return dict(content)

    @staticmethod
    def _write(path: Path, content: Mapping[str, object]) -> None:
        whole = path.with_suffix(".new")
        whole.write_text(json.dumps(content, indent=2) + "\n")
        whole.replace(path)


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as attempt:
        attempt.settimeout(1.0)
        return attempt.connect_ex((host, int(port))) == 0


def _free(port: int) -> bool:
    with socket.socket() as attempt:
        # As Java does: connections that are closing do not count.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _tail(path: Path, count: int) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-count:]
