from __future__ import annotations

import socket
import time

import pytest

from serving.web.admission import Limits
from serving.web.api import create_app
from tests.serving.listening import Listening

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = Limits(head_s=0.2, idle_s=1, body_s=0.2, head_bytes=4096, connections=3)


@pytest.fixture
def served(world):
    """A server with small limits."""
    with Listening(create_app(world.service, world.metrics, world.freshness, LIMITS), LIMITS) as listening:
        yield listening


def connect(served: Listening) -> socket.socket:
    """A connection with nothing said yet."""
    return socket.create_connection(("127.0.0.1", served.port), 5)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass  # closed with bytes of ours unread
    return received


def answers(connection: socket.socket, count: int) -> bytes:
    """What comes until this many answers of /livez are whole."""
    received = b""
    while received.count(b'{"live":true}') < count:
        received += connection.recv(65536)
    return received


def test_a_head_that_comes_byte_by_byte_is_cut_off(served) -> None:
    """Whoever sends a byte now and then does not hold a connection: it ends with the time for heads."""
    with connect(served) as connection:
        started_s = time.monotonic()
        try:
            for byte in REQUEST * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            pass
        assert time.monotonic() - started_s < 3
        assert b"200 OK" not in all_of(connection)


def test_a_head_without_end_is_cut_off(served) -> None:
    """Headers beyond their size end the connection, before memory grows with them."""
    with connect(served) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(20_000):
                connection.sendall(b"x-more: " + b"y" * 1000 + b"\r\n")


def test_a_body_that_comes_byte_by_byte_is_answered_408(world, served) -> None:
    """The head is complete, the body never: 408 as a problem, and the connection is closed."""
    with connect(served) as connection:
        connection.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"application/problem+json" in answer


def test_silence_ends_a_connection(served) -> None:
    """A connection that never asks anything, and one that asked once, are both closed after the idle time."""
    with connect(served) as silent, connect(served) as asked:
        asked.sendall(REQUEST)
        assert all_of(silent) == b""
        assert all_of(asked).startswith(b"HTTP/1.1 200 OK")


def test_connections_beyond_the_bound_are_closed_at_once(served) -> None:
    """The fourth of three is closed unanswered; once one has gone, there is room again."""
    held = [connect(served) for _ in range(3)]
    for each in held:
        each.sendall(REQUEST)
        assert each.recv(65536).startswith(b"HTTP/1.1 200 OK")
    with connect(served) as beyond:
        assert all_of(beyond) == b""
    held.pop().close()
    time.sleep(0.05)
    with connect(served) as again:
        again.sendall(REQUEST)
        assert again.recv(65536).startswith(b"HTTP/1.1 200 OK")
    for each in held:
        each.close()


def test_what_is_no_http_is_told_so(served) -> None:
    """Bytes that are no HTTP get 400 and the connection is closed."""
    with connect(served) as connection:
        connection.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert all_of(connection).startswith(b"HTTP/1.1 400")


def test_many_requests_on_one_connection(served) -> None:
    """Keep-alive, also when the next request is sent before the answer to the last has come."""
    with connect(served) as connection:
        for _ in range(3):
            connection.sendall(REQUEST)
            assert answers(connection, 1).count(b"200 OK") == 1
        connection.sendall(REQUEST * 3)
        assert answers(connection, 3).count(b"200 OK") == 3
