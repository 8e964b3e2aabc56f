"""Stops a worker at a chosen step of the write protocol, for crash tests.

`--failpoint ACTION:STEP:COUNT` acts the COUNT-th time that STEP is reached in the process. Actions: `kill` (SIGKILL,
as a crash), `stop` (SIGSTOP, as a pause by the hypervisor), `raise` (an exception nobody expected).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final, Literal, get_args

from schemas.errors import BadInput

__all__ = ["NO_FAILPOINT", "Failpoint", "Step"]

#: Of one batch, in order: the rows are computed; they are sent and not committed; they are committed and not stored;
#: the first of the lane's tables is stored; all are.
Step = Literal["folded", "sent", "committed", "first_stored", "stored"]
_ACTIONS: Final = ("kill", "stop", "raise")


@dataclass
class Failpoint:
    """Where to fail and how; see the module."""

    action: str
    step: str
    count: int

    @classmethod
    def parse(cls, text: str) -> Failpoint:
        """From ACTION:STEP:COUNT, or "" for none. Raises BadInput."""
        if not text:
            return cls("", "", 0)
        action, _, rest = text.partition(":")
        step, _, count = rest.partition(":")
        if action not in _ACTIONS or step not in get_args(Step) or not count.isdigit():
            raise BadInput(
                f"--failpoint {text!r} is not ACTION:STEP:COUNT with an action of {', '.join(_ACTIONS)} and a step of "
                f"{', '.join(get_args(Step))}"
            )
        return cls(action, step, int(count))

    def reach(self, step: Step) -> None:
        """The process is at this step."""
        if step != self.step:
            return
        self.count -= 1
        if self.count != 0:
            return
        if self.action == "raise":
            raise RuntimeError(f"failpoint at {step}")
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


NO_FAILPOINT: Final = Failpoint("", "", 0)
