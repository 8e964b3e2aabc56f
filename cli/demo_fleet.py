"""The processes of a demo: a broker where none is given, one worker, one server; each stopped by its exact id."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console

from cli.broker_probe import answers
from cli.local_broker import LocalBroker
from cli.processes import Process, spawn
from schemas.deployment import Deployment
from schemas.errors import AifError, BadInput, Unavailable

__all__ = ["Fleet", "Server", "refuse_second", "stop_record"]

Found = TypeVar("Found")

_STOP_WITHIN_S: Final = 15.0
_DELETED_WITHIN_S: Final = 30.0
_RECORD: Final = "demo.json"


class Server:
    """An HTTP connection to one of the processes, kept open between requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON body; (0, None) while nothing listens."""
        return self._call("GET", path, None)

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """Status and JSON body of a JSON request."""
        return self._call("POST", path, json.dumps(body).encode())

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        for _ in range(2):  # a connection that was idle for long may have been closed by the other side
            try:
                self._connection.request(method, path, body, {"content-type": "application/json"} if body else {})
                answer = self._connection.getresponse()
                return answer.status, json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                self._connection.close()
        return 0, None


class Fleet:
    """What the demo runs on. `deployment` is the demo's own: topics, group and folder of its own."""

    def __init__(self, outer: Deployment, prefix: str, env: Mapping[str, str], console: Console) -> None:
        self._outer, self._env, self._console = outer, env, console
        self._folder = outer.data_dir.absolute() / "demo" / prefix.rstrip("-")
        self._broker: LocalBroker | None = None
        self._processes: dict[str, Process] = {}
        self._has_topics = False
        self.deployment = replace(outer, prefix=prefix, data_dir=self._folder)
        self.worker, self.server = Server(_free_port()), Server(_free_port())
        self.kept = False

    def start(self) -> None:
        """Broker and topics. Raises BadInput where Java or Maven is missing, Unavailable where the broker fails."""
        from producers.topics import create_topics

        self._folder.mkdir(parents=True)
        servers = self._outer.bootstrap_servers
        if not answers(servers, within_s=2):
            broker = LocalBroker(self._outer.data_dir, self._env)
            if broker.process is None:
                self._broker = broker  # ours from before it starts: Ctrl-C may come meanwhile
            with self._console.status("starting Apache Kafka (one local process)"):
                broker.start()
            servers = broker.bootstrap_servers
        self.deployment = replace(self.deployment, bootstrap_servers=servers)
        self._console.print(f"broker   {servers}")
        self._has_topics = True
        self._console.print(f"topics   {len(create_topics(self.deployment))} with prefix {self.deployment.prefix}")

    def run(self, name: str, *arguments: str) -> None:
        """Start `aif` with these arguments as its own process, its output in <name>.log."""
        command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
        self._processes[name] = spawn(command, self.log(name), self.environment())

    def environment(self) -> dict[str, str]:
        """The environment of the demo's processes."""
        return {**self._env, **self.settings()}

    def settings(self) -> dict[str, str]:
        """The deployment as environment variables."""
        return {f"AIF_{name.upper()}": str(value) for name, value in asdict(self.deployment).items()}

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self._folder / f"{name}.log"

    def wait(self, what: str, look: Callable[[], Found | None], within_s: float) -> Found:
        """The first thing that `look` finds; Unavailable with the ends of the logs after `within_s` or a crash."""
        deadline = time.monotonic() + within_s
        with self._console.status(what):
            while time.monotonic() < deadline:
                found = look()
                if found is not None:
                    return found
                dead = [name for name, process in self._processes.items() if not process.alive()]
                if dead:
                    raise Unavailable(f"{dead[0]} ended while {what}:\n{self._tail(dead[0])}")
                time.sleep(0.1)
        tails = "\n".join(f"--- {name}\n{self._tail(name)}" for name in self._processes)
        raise Unavailable(f"{what} took more than {within_s:.0f} s:\n{tails}")

    def keep(self) -> str:
        """Leave everything running, recorded for `aif demo --stop`; what to tell the user.

        Raises BadInput where another demo has been kept meanwhile.
        """
        record = {
            "processes": {name: asdict(process) for name, process in self._processes.items()},
            "broker": self._broker is not None,
            "bootstrap_servers": self.deployment.bootstrap_servers,
            "prefix": self.deployment.prefix,
            "folder": str(self._folder),
        }
        try:
            with (self._outer.data_dir / _RECORD).open("x") as stream:
                stream.write(json.dumps(record, indent=1) + "\n")
        except FileExistsError:
            refuse_second(self._outer.data_dir)
        self.kept = True
        variables = "\n".join(f"  export {name}={value}" for name, value in sorted(self.settings().items()))
        return (
            f"still running: server http://127.0.0.1:{self.server.port}, worker http://127.0.0.1:{self.worker.port}\n"
            f"to use `aif` with it:\n{variables}\n"
            f"to end it: aif demo --stop --data-dir {self._outer.data_dir.absolute()}"
        )

    def stop(self) -> None:
        """Stop what was started, last first; the tables and topics of the demo go with it."""
        for process in reversed(self._processes.values()):
            process.stop(_STOP_WITHIN_S)
        if self._has_topics and (stay := _delete_topics(self.deployment)):
            self._console.print(stay)
        if self._broker is not None:
            self._broker.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tail(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-15:])


def refuse_second(data_dir: Path) -> None:
    """Raises BadInput where a demo is kept already: its record is the only way to end it."""
    if (data_dir / _RECORD).exists():
        raise BadInput(
            f"a demo is kept already ({data_dir / _RECORD} has it): end it with `aif demo --stop`, or keep this one "
            "in another --data-dir"
        )


def stop_record(outer: Deployment) -> str:
    """Stop what `aif demo --keep` left, and delete its topics and tables; what to tell the user."""
    path = outer.data_dir / _RECORD
    if not path.exists():
        return f"no kept demo is recorded in {outer.data_dir}"
    record = json.loads(path.read_text())
    for process in reversed(record["processes"].values()):
        Process(**process).stop(_STOP_WITHIN_S)
    stay = _delete_topics(replace(outer, bootstrap_servers=record["bootstrap_servers"], prefix=record["prefix"]))
    if record["broker"]:
        LocalBroker(outer.data_dir, {}).stop()
    shutil.rmtree(record["folder"], ignore_errors=True)
    path.unlink()
    stopped = f"stopped {', '.join(record['processes'])}{' and the broker' if record['broker'] else ''}"
    return f"{stopped}\n{stay}" if stay else stopped


def _delete_topics(deployment: Deployment) -> str:
    """Delete what exists of a demo's topics; why they stay, empty where they do not.

    A broker answers a deletion before its own metadata shows it: only when no listing has them are they gone.
    """
    from producers.connection import admin_client
    from schemas.topics import all_topics

    names = {deployment.topic(topic.name) for topic in all_topics()}
    try:
        with admin_client(deployment) as admin:
            if ours := names & set(admin.list_topics()):
                admin.delete_topics(sorted(ours))
            until = time.monotonic() + _DELETED_WITHIN_S
            while ours and (ours := names & set(admin.list_topics())):
                if time.monotonic() > until:
                    return f"the broker is still deleting the demo's topics ({deployment.prefix}*)"
                time.sleep(0.1)
    except AifError as error:
        return f"the demo's topics ({deployment.prefix}*) stay: {error}"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
