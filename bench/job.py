"""A measured process: what it is asked, how it is pinned and started, what it reports.

The parent starts `python -m MODULE JOB`, JOB being JSON; the process writes `result.json` into its folder when the
work is done, and is then asked to end.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from schemas.deployment import Deployment
from schemas.errors import Unavailable

__all__ = ["Job", "Running", "Stopwatch", "free_port", "launched", "pinned", "run"]

_POLL_S: Final = 0.05
_STOP_WITHIN_S: Final = 10.0
_RESULT: Final = "result.json"


@dataclass(frozen=True)
class Job:
    """What one measured process has to do."""

    bootstrap_servers: str
    prefix: str
    partitions: int
    #: Records in the source topic: the process is done when it has applied as many.
    records: int
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, deployment: Deployment, records: int, **options: Any) -> Job:
        """The job on a deployment."""
        return cls(
            deployment.bootstrap_servers, deployment.prefix, deployment.partitions, records,
            str(deployment.data_dir), options,
        )  # fmt: skip

    @classmethod
    def from_argv(cls) -> Job:
        """The job that this process was started for."""
        return cls(**json.loads(sys.argv[1]))

    @property
    def deployment(self) -> Deployment:
        """The deployment, with the job's folder as its data folder."""
        return Deployment(
            bootstrap_servers=self.bootstrap_servers,
            prefix=self.prefix,
            partitions=self.partitions,
            data_dir=Path(self.folder),
        )

    @property
    def topic(self) -> str:
        """The source topic."""
        return self.deployment.topic("item-updates")

    def report(self, **result: Any) -> None:
        """Say what came out, with the memory that this process used at most."""
        result["peak_rss_mb"] = _peak_rss_kb() / 1024
        whole = Path(self.folder) / f"{_RESULT}.new"
        whole.write_text(json.dumps(result))
        whole.replace(Path(self.folder) / _RESULT)


def _peak_rss_kb() -> int:
    """The most memory that this process held; `getrusage` would count its parent's up to the exec as well."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # bytes on macOS


class Stopwatch:
    """Wall and CPU time from the first record in hand until all are applied."""

    def __init__(self) -> None:
        self._wall_s: float | None = None
        self._cpu_s = 0.0

    @property
    def running(self) -> bool:
        """Whether it was started."""
        return self._wall_s is not None

    def start(self) -> None:
        """Start it; a second start changes nothing."""
        if self._wall_s is None:
            self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Seconds so far, by the wall and of CPU (all threads)."""
        assert self._wall_s is not None, "read before the first record"
        return {"seconds": time.perf_counter() - self._wall_s, "cpu_s": time.process_time() - self._cpu_s}


def free_port() -> int:
    """A port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes started inside run on this core alone, their threads included; None leaves them free."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Running:
    """A measured process that has been started."""

    def __init__(self, module: str, job: Job, core: int | None) -> None:
        self._module, self._job = module, job
        self._log = Path(job.folder) / f"{module}.log"
        (Path(job.folder) / _RESULT).unlink(missing_ok=True)
        command = [sys.executable, "-m", module, json.dumps(asdict(job))]
        with self._log.open("ab") as log, pinned(core):
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def result(self, within_s: float) -> dict[str, Any]:
        """What it reports. Raises Unavailable with the end of its log where it ends first or takes too long."""
        path = Path(self._job.folder) / _RESULT
        deadline = time.monotonic() + within_s
        while not path.exists():
            if (status := self._process.poll()) is not None and not path.exists():
                raise Unavailable(f"{self._module} ended with {status} before its work was done:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise Unavailable(f"{self._module} was not done after {within_s:.0f} s:\n{self._tail()}")
            time.sleep(_POLL_S)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def alive(self) -> bool:
        """Whether it still runs; what it was started for may be done."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it, in good order where it can."""
        if self.alive():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])


@contextmanager
def launched(module: str, job: Job, core: int | None) -> Iterator[Running]:
    """The process while the block runs; it does not outlive it."""
    process = Running(module, job, core)
    try:
        yield process
    finally:
        process.stop()


def run(module: str, job: Job, core: int | None, within_s: float) -> dict[str, Any]:
    """Start, wait for the result, end."""
    with launched(module, job, core) as process:
        return process.result(within_s)
