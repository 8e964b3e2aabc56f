"""How much one server takes on at once. What is beyond is refused at once and told when to ask again, before memory or
everybody's waiting time grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serving.metrics import Labelled

__all__ = ["RETRY_AFTER_S", "Admission", "Limits"]

RETRY_AFTER_S: Final = 1


@dataclass(frozen=True)
class Limits:
    """Bounds of one serving process. Bodies, then connections, then work."""

    body_bytes: int = 1 << 20
    #: From a request's first byte to the end of its head, and from there to the end of its body.
    head_s: float = 10.0
    body_s: float = 10.0
    #: A connection on which nothing is asked for this long is closed.
    idle_s: float = 60.0
    head_bytes: int = 32 << 10
    connections: int = 1024
    #: Bytes of bodies held at once, of all requests together.
    bodies_bytes: int = 64 << 20
    #: Rank requests between their last byte and their answer.
    under_way: int = 256


class Admission:
    """What is taken on at the moment. The event loop's thread alone calls it."""

    def __init__(self, limits: Limits, shed: Labelled) -> None:
        self.limits = limits
        self.under_way = 0
        self.bodies_bytes = 0
        self._shed = shed

    def hold(self, size: int) -> bool:
        """Take `size` more bytes of a body; False, and nothing taken, where the server holds too many already."""
        if self.bodies_bytes + size > self.limits.bodies_bytes:
            self._shed["bodies"].inc()
            return False
        self.bodies_bytes += size
        return True

    def release(self, size: int) -> None:
        """Give bytes back."""
        self.bodies_bytes -= size

    def begin(self, requests: int = 1) -> bool:
        """Take requests on; False, and nothing taken, where too many are under way."""
        if self.under_way + requests > self.limits.under_way:
            self._shed["requests"].inc(requests)
            return False
        self.under_way += requests
        return True

    def end(self, requests: int = 1) -> None:
        """They were answered."""
        self.under_way -= requests
