"""Processes of our commands forked from a server that has imported everything already.

Importing torch and Faust takes seconds of a core, which a test that starts a worker twenty times would spend twenty
times. What runs in the forked process is `aif` all the same, as a process of its own: it can be stopped, killed and
waited for like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
#: Loaded once, in the server.
_CONTEXT.set_forkserver_preload(["pytest", "fleet", "cli.main", "cli.worker", "streams.topology", "streams.worker"])


class Forked:
    """One `aif` command in a forked process, with the parts of subprocess.Popen's interface that tests use."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative where a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """`returncode`."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def aif(
    arguments: Sequence[str], env: Mapping[str, str], log: Path, before: Callable[[], None] | None = None
) -> Forked:
    """Run `aif` with these arguments and exactly this environment, its output behind the log's end.

    `before`, a function of a module, is called first in the new process: to make it fail on purpose.
    """
    return _forked("aif", arguments, env, log, log, before)


def faust(arguments: Sequence[str], env: Mapping[str, str], log: Path, errors: Path) -> Forked:
    """Run Faust's own command line as `aif` runs ours; what it writes to stderr goes to `errors`."""
    return _forked("faust", arguments, env, log, errors, None)


def _forked(
    program: str, arguments: Sequence[str], env: Mapping[str, str], log: Path, errors: Path,
    before: Callable[[], None] | None,
) -> Forked:  # fmt: skip
    details = program, list(arguments), dict(env), str(log), str(errors), before
    process = _CONTEXT.Process(target=_run, args=details, daemon=True)
    process.start()
    return Forked(process)


def _run(
    program: str, arguments: list[str], env: dict[str, str], log: str, errors: str, before: Callable[[], None] | None
) -> None:
    for descriptor, path in ((1, log), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [program, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if before is not None:
        before()
    if program == "faust":
        from faust.cli.faust import cli

        cli()
    else:
        from cli.main import main

        main(arguments)
