"""Clients that ask the same rank requests at a rate, and keep every distinct answer with how often it came.

Items and users of the requests are left alone while the clients ask, so an answer depends on the request and the model
version alone: whatever answer is of two versions at once stands out, and each distinct one is scored again offline.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from serving.web.binary import MEDIA_TYPE, BinaryRequest, decode_answer, encode_request

_END = b"\r\n\r\n"
#: Seconds between two requests of a client. As fast as they can, clients would starve the broker that is to come back.
_EVERY_S = 0.005


class Answer(NamedTuple):
    """One distinct answer."""

    request: int
    version: str
    scores: bytes  #: float32 of the candidates, in request order
    outcomes: bytes


class Load:
    """Threads, each with a kept connection to one of the ports. `answers` and `troubles` grow while it runs."""

    def __init__(self, ports: Sequence[int], requests: Sequence[BinaryRequest], threads: int = 4) -> None:
        self.answers: Counter[Answer] = Counter()
        self.troubles: Counter[str] = Counter()  #: answers other than 200, broken connections
        #: By thread the version of its newest answer, and when that came (monotonic s).
        self.newest: dict[int, tuple[str, float]] = {number: ("", 0.0) for number in range(threads)}
        self._ports = ports
        self._wire = [_post(encode_request(request)) for request in requests]
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        """Answers so far."""
        with self._lock:
            return self.answers.total()

    def _ask(self, number: int) -> None:
        answers: Counter[Answer] = Counter()
        at, due_s = number, time.monotonic()
        while not self._over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._ports[number % len(self._ports)]), 10) as connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while not self._over.is_set():
                        at = (at + 1) % len(self._wire)
                        answer = self._answer(connection, at)
                        answers[answer] += 1
                        self.newest[number] = answer.version, time.monotonic()
                        if answers.total() >= 50:
                            self._keep(answers)
                        # Late, a client goes on from now: it never asks in bursts.
                        due_s = max(due_s + _EVERY_S, time.monotonic())
                        self._over.wait(due_s - time.monotonic())
            except (OSError, ConnectionError) as error:
                self.troubles[type(error).__name__] += 1
                time.sleep(0.05)
        self._keep(answers)

    def _keep(self, answers: Counter[Answer]) -> None:
        with self._lock:
            self.answers.update(answers)
        answers.clear()

    def _answer(self, connection: socket.socket, request: int) -> Answer:
        connection.sendall(self._wire[request])
        received = b""
        while (head := received.find(_END)) < 0:
            received += _some(connection)
        length = int(received[:head].lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(received) < head + len(_END) + length:
            received += _some(connection)
        if not received.startswith(b"HTTP/1.1 200"):
            self.troubles[received[:40].split(b"\r\n")[0].decode()] += 1
            raise ConnectionError
        answer = decode_answer(received[head + len(_END) :])
        return Answer(request, answer.model_version, answer.scores.tobytes(), answer.outcomes.tobytes())


def requests_of(users: Sequence[int], items: Sequence[int], at_ms: int, candidates: int = 12) -> list[BinaryRequest]:
    """One request of each user, for as many of the items."""
    chance = np.random.default_rng(5)
    return [
        BinaryRequest(user, chance.choice(np.array(items), candidates, replace=False), 0, at_ms, in_request_order=True)
        for user in users
    ]


def _post(body: bytes) -> bytes:
    head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionError("closed")
    return data
