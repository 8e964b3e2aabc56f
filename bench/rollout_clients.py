"""Rankings asked on a schedule while models change, and which version answered when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import numpy as np

from bench.load import produce
from bench.open_loop import Outcome, drive, post
from domain.partitioner import partition_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from schemas.ids import entity_key
from schemas.records import ACTIONS
from serving.web.binary import MEDIA_TYPE, BinaryRequest, decode_answer, encode_request

__all__ = ["Answers", "fill_users"]

_USERS: Final = 64
_BEHAVIOURS: Final = 64
_CANDIDATES: Final = 1_000
_TOP_K: Final = 100
_CONNECTIONS: Final = 8
_MINUTE_MS: Final = 60_000


def fill_users(deployment: Deployment, items: int) -> None:
    """Some users, each with some behaviours among the items."""
    produce(deployment, deployment.topic("user-events"), _events(deployment, items))


def _events(deployment: Deployment, items: int) -> Iterator[tuple[int, bytes, bytes]]:
    chance, now_ms, encode = np.random.default_rng(3), int(time.time() * 1000), codec("user_event").encode
    for number in range(_USERS * _BEHAVIOURS):
        user = number % _USERS
        event = {
            "event_id": number, "user_id": user, "item_id": int(chance.integers(items)),
            "event_time_ms": now_ms - 1000 * (_USERS * _BEHAVIOURS - number), "action": ACTIONS[number % len(ACTIONS)],
            "category_id": number % 50, "value": 1.0, "original_user_id": None, "original_item_id": None,
        }  # fmt: skip
        yield partition_of(user, deployment.partitions), entity_key(user), encode(event)


class Answers:
    """The clients of one run; each request is of another minute, so that the user's part is computed for it."""

    def __init__(self, items: int) -> None:
        self._items = items
        self.started_ms = 0.0  #: wall clock
        self._seen: list[tuple[float, str]] = []  #: when the version of answers changed, and to which

    def drive(self, port: int, per_s: int, seconds: float) -> Outcome:
        """Ask at a rate for a time."""
        requests = list(self._requests(int(per_s * seconds)))
        self.started_ms = 1000 * time.time()
        return drive(port, requests, per_s, _CONNECTIONS, self._note)

    def first(self, version: str, after_ms: float = 0.0) -> float:
        """When the first answer of a version came after a time, wall ms. Raises Corrupt where there was none."""
        for at_ms, name in self._seen:
            if name == version and at_ms > after_ms:
                return at_ms
        raise Corrupt(f"no answer of model {version}: {self._seen}")

    def _note(self, body: bytes) -> None:
        version = decode_answer(body).model_version
        if not self._seen or self._seen[-1][1] != version:
            self._seen.append((1000 * time.time(), version))

    def _requests(self, count: int) -> Iterator[bytes]:
        chance, now_ms = np.random.default_rng(4), int(time.time() * 1000)
        for number in range(count):
            candidates = chance.integers(0, self._items, _CANDIDATES)
            at_ms = now_ms + (1 + number) * _MINUTE_MS
            body = encode_request(BinaryRequest(number % _USERS, candidates, _TOP_K, at_ms))
            yield post("/v1/rank", MEDIA_TYPE, body)
