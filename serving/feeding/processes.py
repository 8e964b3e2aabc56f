"""The processes of `aif serve`: a parent that does nothing but start them, a feeder, and those that score.

The parent has loaded all code before it forks, so that a child is there in milliseconds, first as after its death. It
has no threads, no maps and no connections: nothing of it can be in a wrong state in a child. Scoring processes accept
from one listening socket. Whoever dies is started again, with a growing pause where it dies at once; while the feeder
is away the others answer from what is there. When the parent dies, the kernel ends the children.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from schemas.errors import AifError, exit_status

__all__ = ["Processes"]

_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
#: Who lives for so long has started well.
_LIVED_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1

_log = logging.getLogger(__name__)


@dataclass
class _Child:
    name: str
    run: Callable[[], None]
    process: int = 0
    started_s: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    due_s: float = field(default=0.0)  #: when it is to be started, where it does not run


class Processes:
    """Runs functions as processes until SIGTERM or SIGINT; then ends them in groups, the last given first.

    `groups` are lists of (name, function): the feeder first, then those that score, so that these drain while rows
    still come.
    """

    def __init__(self, groups: list[list[tuple[str, Callable[[], None]]]]) -> None:
        self._groups = [[_Child(name, run) for name, run in group] for group in groups]

    def run(self, drain_s: float) -> None:
        """Return when all have ended. Children have `drain_s` seconds a group, then they are killed."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for child in self._children:
                self._start(child)
            while self._step():
                pass
            for group in reversed(self._groups):
                self._end(group, drain_s)
        finally:
            for child in self._children:
                if child.process:
                    os.kill(child.process, signal.SIGKILL)
                    os.waitpid(child.process, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def _children(self) -> list[_Child]:
        return [child for group in self._groups for child in group]

    def _step(self) -> bool:
        """Wait for a signal or a start that is due; False where it is time to end."""
        now_s = time.monotonic()
        due = [child.due_s for child in self._children if not child.process]
        came = signal.sigtimedwait(_SIGNALS, max(0.0, min([1.0, *(at - now_s for at in due)])))
        if came is not None and came.si_signo != signal.SIGCHLD:
            return False
        self._reap()
        for child in self._children:
            if not child.process and child.due_s <= time.monotonic():
                self._start(child)
        return True

    def _start(self, child: _Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        process = os.fork()
        if not process:
            _become(child, parent)
        child.process, child.started_s = process, time.monotonic()

    def _reap(self, ending: bool = False) -> None:
        for child in self._children:
            if not child.process:
                continue
            process, status = os.waitpid(child.process, os.WNOHANG)
            if not process:
                continue
            lived_s = time.monotonic() - child.started_s
            child.pause_s = _FIRST_PAUSE_S if lived_s >= _LIVED_S else min(2 * child.pause_s, _LONGEST_PAUSE_S)
            child.process, child.due_s = 0, time.monotonic() + child.pause_s
            if ending:  # a supervisor may tell the whole group at once
                continue
            _log.error(
                "%s has ended with %s; it is started again in %.1f s",
                child.name, os.waitstatus_to_exitcode(status), child.pause_s,
            )  # fmt: skip

    def _end(self, group: list[_Child], within_s: float) -> None:
        """SIGTERM to all of a group, and wait."""
        self._reap(ending=True)
        for child in group:
            if child.process:
                os.kill(child.process, signal.SIGTERM)
        until_s = time.monotonic() + within_s
        for child in group:
            while child.process and time.monotonic() < until_s:
                if os.waitpid(child.process, os.WNOHANG)[0]:
                    child.process = 0
                else:
                    signal.sigtimedwait({signal.SIGCHLD}, 0.05)
            if child.process:
                _log.error("%s does not end within %.0f s: it is killed", child.name, within_s)


def _become(child: _Child, parent: int) -> None:
    """What a forked process does; it does not return."""
    status = 0
    try:
        _end_with(parent)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        child.run()
    except AifError as error:
        _log.error("%s: %s", child.name, error)
        status = exit_status(error)
    except BaseException as error:
        _log.exception("%s failed", child.name)
        status = exit_status(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent is gone, where it can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
