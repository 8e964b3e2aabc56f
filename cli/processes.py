"""Processes that outlive the command that started them: named exactly, so that only they are ever stopped.

A pid alone is not a name, since the system gives it to somebody else later. A `Process` is a pid together with when
that process started, in a form that does not repeat over restarts of the machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Process", "spawn"]

_POLL_S: Final = 0.05


@dataclass(frozen=True)
class Process:
    """One process, past or present."""

    pid: int
    #: Boot id and clock ticks since that boot; where /proc is missing, the start as `ps` prints it.
    started: str

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return _started(self.pid) == self.started

    def send(self, signal_number: int) -> bool:
        """Sends a signal to this process; False when it is gone. Cannot hit a later owner of the pid on Linux."""
        try:
            # The descriptor is bound to whoever owns the pid now; the check after it says whether that is us.
            handle = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
                return False
            if handle is None:
                os.kill(self.pid, signal_number)
            else:
                signal.pidfd_send_signal(handle, signal_number)
            return True
        except ProcessLookupError:
            return False
        finally:
            if handle is not None:
                os.close(handle)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        _reap(self.pid)
        return True

    def stop(self, timeout_s: float) -> bool:
        """Asks it to end, and kills it when it has not within `timeout_s`; False when it was gone already."""
        if not self.send(signal.SIGTERM):
            return False
        if not self.wait(timeout_s):
            self.send(signal.SIGKILL)
            self.wait(timeout_s)
        return True


def spawn(command: Sequence[str], output: Path, env: Mapping[str, str] | None = None) -> Process:
    """Starts a process of its own session (Ctrl-C in this terminal spares it), its output in the file `output`."""
    with output.open("wb") as stream:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, start_new_session=True
        )
    started = _started(child.pid)
    # Its end is watched through the system, not through this object: another command will have to do the same.
    child.returncode = 0
    return Process(child.pid, started or "")


def _started(pid: int) -> str | None:
    """When the process with this pid started; None when there is none or only a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return _started_by_ps(pid)
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, start_ticks = fields[0], fields[19]
    if state in "ZX":
        return None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}:{start_ticks}"


def _started_by_ps(pid: int) -> str | None:
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = answer.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None


def _reap(pid: int) -> None:
    """Takes the exit status of a child of this process, so that no zombie stays; of others the system takes care."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
