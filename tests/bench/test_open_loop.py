"""The load generator: what it sends and when, and from when it counts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from bench.open_loop import drive, post
from schemas.errors import Unavailable


@contextmanager
def answering(*answers: bytes, pause_s: float = 0.0) -> Iterator[tuple[int, list[bytes]]]:
    """A server of one connection at a time that gives these answers in turn, the first one late; what it was sent."""
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener.accept()[0] as connection:
            buffer, number = b"", 0
            while data := connection.recv(1 << 16):
                buffer += data
                while b"!" in buffer:
                    request, _, buffer = buffer.partition(b"!")
                    received.append(request)
                    if number == 0:
                        time.sleep(pause_s)
                    answer = answers[number % len(answers)]
                    number += 1
                    for part in (answer[:9], answer[9:]):  # answers come in pieces
                        connection.sendall(part)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], received
    finally:
        listener.close()
        thread.join(5)


def ok(body: bytes) -> bytes:
    """An answer."""
    return b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def test_every_request_is_sent_in_turn_and_answered() -> None:
    """All requests arrive whole and in order, each has a latency, and the last answer's body is kept."""
    with answering(ok(b"one"), ok(b"another")) as (port, received):
        outcome = drive(port, [b"%d" % number + b"x" * 100_000 + b"!" for number in range(4)], 200.0, 1)
    assert [request.rstrip(b"x") for request in received] == [b"0", b"1", b"2", b"3"]
    assert outcome.latency_ms.shape == (4,) and (outcome.latency_ms > 0).all()
    assert outcome.last == b"another"
    assert set(outcome.percentiles()) == {"p50", "p99"}


def test_waiting_behind_a_slow_answer_counts() -> None:
    """Requests that were due while the server was busy count from when they were due: no coordinated omission."""
    pause_s, per_s = 0.2, 50.0
    with answering(ok(b""), pause_s=pause_s) as (port, _):
        outcome = drive(port, [b"!"] * 5, per_s, 1)
    due_ms = 1000 * np.arange(5) / per_s
    assert (outcome.latency_ms >= 1000 * pause_s - due_ms - 1).all()


def test_requests_wait_for_their_time() -> None:
    """A schedule of n requests takes at least its own length, however fast the server answers."""
    with answering(ok(b"")) as (port, _):
        outcome = drive(port, [b"!"] * 6, 100.0, 1)
    assert outcome.seconds >= 0.05


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", "503"),
        (b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n", "content-length"),
    ],
)
def test_a_refusal_ends_the_run(answer: bytes, says: str) -> None:
    """An answer that is not a whole 200 raises: a server that refuses quickly must not look fast."""
    with answering(answer) as (port, _), pytest.raises(Unavailable, match=says):
        drive(port, [b"!"], None, 1)


def test_post_is_a_whole_request() -> None:
    """The bytes of a POST say how long its body is."""
    assert post("/v1/rank", "text/plain", b"abc") == (
        b"POST /v1/rank HTTP/1.1\r\nHost: bench\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc"
    )
