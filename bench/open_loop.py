"""Load over HTTP on a schedule: requests go out when they are due, whatever became of the ones before.

Latency counts from when a request was due, not from when it could be sent: where the server falls behind, everything
that waits behind it counts (no coordinated omission). Sockets and epoll in one thread, which spins through the last
milliseconds before a request is due, on a core of the client's own.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.errors import Unavailable

__all__ = ["Outcome", "drive", "post"]

#: epoll rounds its timeout up to whole milliseconds.
_SPIN_S: Final = 0.0015
_RECEIVE: Final = 1 << 18
_SILENCE_S: Final = 30.0
_END: Final = b"\r\n\r\n"


@dataclass(frozen=True)
class Outcome:
    """What became of a run of requests."""

    latency_ms: npt.NDArray[np.float64]  #: [n] from when each was due until its answer was whole
    seconds: float  #: from the first one due until the last answer
    last: bytes  #: body of the last answer

    def percentiles(self) -> dict[str, float]:
        """`p50` and `p99` in ms."""
        p50, p99 = np.percentile(self.latency_ms, [50, 99]).tolist()
        return {"p50": round(p50, 3), "p99": round(p99, 3)}


def post(path: str, media_type: str, body: bytes) -> bytes:
    """A POST as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class _Connection:
    """One kept connection; `number` is the request under way."""

    socket: socket.socket
    number: int = -1
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    whole: int = 0  #: length of the answer, 0 while its head is not there


def drive(
    port: int, requests: Sequence[bytes], per_s: float | None, connections: int,
    answered: Callable[[bytes], None] = lambda body: None,
) -> Outcome:  # fmt: skip
    """Send each request when it is due, at `per_s` a second; None makes all due at once, so that every connection is
    always busy: the rate that comes out is what the server can do.

    `answered` is called with the body of each answer. Raises Unavailable where the server closes, stays silent, or
    answers anything but 200.
    """
    return _Drive(port, requests, per_s, connections, answered).run()


class _Drive:
    def __init__(
        self, port: int, requests: Sequence[bytes], per_s: float | None, connections: int,
        answered: Callable[[bytes], None],
    ) -> None:  # fmt: skip
        self._requests, self._answered = requests, answered
        self._due_s = np.arange(len(requests)) / per_s if per_s else np.zeros(len(requests))
        self._latency_ms = np.empty(len(requests))
        self._poll = select.epoll()
        self._connections = {each.socket.fileno(): each for each in (_connect(port) for _ in range(connections))}
        for number in self._connections:
            self._poll.register(number, select.EPOLLIN)
        self._free = deque(self._connections.values())
        self._last = b""

    def run(self) -> Outcome:
        """Until every answer is there."""
        try:
            started_s = time.perf_counter()
            self._due_s += started_s
            sent = done = 0
            while done < len(self._requests):
                now_s = time.perf_counter()
                while sent < len(self._requests) and self._free and self._due_s[sent] <= now_s:
                    self._send(self._free.popleft(), sent)
                    sent += 1
                done += self._receive(self._wait_s(sent, now_s))
            return Outcome(self._latency_ms, time.perf_counter() - started_s, self._last)
        finally:
            self._poll.close()
            for each in self._connections.values():
                each.socket.close()

    def _wait_s(self, sent: int, now_s: float) -> float:
        """How long to sleep for answers: to shortly before the next request is due."""
        if sent == len(self._requests) or not self._free:
            return _SILENCE_S
        return max(0.0, float(self._due_s[sent]) - now_s - _SPIN_S)

    def _send(self, connection: _Connection, number: int) -> None:
        connection.number = number
        connection.unsent = memoryview(self._requests[number])
        self._continue(connection)

    def _continue(self, connection: _Connection) -> None:
        with suppress(BlockingIOError):  # the buffer is full: epoll says when it is not
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        wanted = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
        self._poll.modify(connection.socket.fileno(), wanted)

    def _receive(self, wait_s: float) -> int:
        """Answers that became whole."""
        events = self._poll.poll(wait_s)
        if not events and wait_s == _SILENCE_S:
            raise Unavailable(f"the server has been silent for {_SILENCE_S:.0f} s")
        done = 0
        for number, event in events:
            connection = self._connections[number]
            if event & select.EPOLLOUT:
                self._continue(connection)
            if event & ~select.EPOLLOUT:
                done += self._take(connection)
        return done

    def _take(self, connection: _Connection) -> bool:
        data = connection.socket.recv(_RECEIVE)
        if not data:
            raise Unavailable("the server closed a connection under load")
        connection.received += data
        if not connection.whole:
            connection.whole = _length(connection.received)
        if not connection.whole or len(connection.received) < connection.whole:
            return False
        self._latency_ms[connection.number] = 1000 * (time.perf_counter() - self._due_s[connection.number])
        self._last = _body(bytes(connection.received))
        self._answered(self._last)
        connection.received.clear()
        connection.whole, connection.number = 0, -1
        self._free.append(connection)
        return True


def _connect(port: int) -> _Connection:
    connected = socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setblocking(False)
    return _Connection(connected)


def _length(received: bytearray) -> int:
    """Bytes of the whole answer; 0 while its head is not there."""
    end = received.find(_END)
    if end < 0:
        return 0
    for line in bytes(received[:end]).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return end + len(_END) + int(line.partition(b":")[2])
    raise Unavailable(f"an answer without content-length: {bytes(received[:200])!r}")


def _body(answer: bytes) -> bytes:
    head, _, body = answer.partition(_END)
    if not head.startswith(b"HTTP/1.1 200"):
        raise Unavailable(f"the server answered {head[:40]!r} under load: {body[:300]!r}")
    return body
