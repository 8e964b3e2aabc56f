"""The Python client of a serving process, blocking (`Client`) and asynchronous (`AsyncClient`).

::

    with Client("http://127.0.0.1:8080") as client:
        best = client.rank(42, [1, 2, "sku-9"], top_k=2, deadline_ms=50)
        best.item_ids, best.scores, best.model_version

It needs numpy and httptools, not the rest of serving. Rankings travel as binary bodies (binary.py); connections are
kept and shared, and a client may be used by many threads, or many tasks of one loop. A deadline bounds a whole call and
is told to the server, which does not score what nobody waits for.

Everything it asks is a read, so asking twice changes nothing. It asks a second time, once and within the deadline, only
where a kept connection broke before a byte of the answer came: the server had closed it. What is refused (503) or late
is the caller's to decide: retries would add load where there is too much of it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from schemas.errors import AifError, BadInput, Corrupt, Unavailable
from schemas.ids import hashed_id
from serving.client_connection import AsyncConnection, BlockingConnection, Endpoint, Response
from serving.web.binary import MEDIA_TYPE, BinaryAnswer, BinaryRequest, decode_answer, encode_request

__all__ = ["AsyncClient", "Candidates", "Client", "EntityRef"]

#: An id, or a string id, which is hashed as at the producers' edge.
EntityRef = int | str
Candidates = npt.NDArray[np.int64] | Sequence[EntityRef]

_RANK: Final = "/v1/rank"
_JSON: Final = "application/json"
_MOST_IDLE: Final = 64


class Client:
    """A blocking client; any number of threads may share it.

    Raises BadInput where a request is wrong, Unavailable where the server cannot be reached, refuses for now or is too
    late, Corrupt where it has a fault. The message is the server's own sentence where it sent one.
    """

    def __init__(
        self, url: str, *, token: str | None = None, tls: ssl.SSLContext | None = None, timeout_s: float = 5.0
    ) -> None:
        self._endpoint = Endpoint.of(url, token, tls)
        self._timeout_s = timeout_s
        self._idle: list[BlockingConnection] = []
        self._lock = threading.Lock()

    def rank(
        self, user: EntityRef, candidates: Candidates, *, top_k: int = 0, at_ms: int | None = None,
        deadline_ms: int = 0, in_request_order: bool = False,
    ) -> BinaryAnswer:  # fmt: skip
        """Rank candidates for a user: the best `top_k` (0: all) with their ids, or all scores in the given order."""
        body = _rank_body(user, candidates, top_k, at_ms, deadline_ms, in_request_order)
        return decode_answer(_checked(self._call("POST", _RANK, MEDIA_TYPE, body, deadline_ms)))

    def rank_json(self, **fields: Any) -> dict[str, Any]:
        """POST /v1/rank with a JSON body of these fields (docs/serving-api.md); for batches: `requests=[...]`."""
        body, deadline_ms = json.dumps(fields).encode(), fields.get("deadline_ms") or 0
        return _data(self._call("POST", _RANK, _JSON, body, deadline_ms))

    def get(self, path: str) -> dict[str, Any]:
        """The JSON answer of a GET."""
        return _data(self._call("GET", path, _JSON, b"", 0))

    def item(self, item: EntityRef) -> dict[str, Any]:
        """What the server holds of an item."""
        return self.get(_item_path(item))

    def user_features(self, user: EntityRef) -> dict[str, Any]:
        """What the server holds of a user."""
        return self.get(_user_path(user))

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, path: str, media_type: str, body: bytes, deadline_ms: int) -> Response:
        request = self._endpoint.request(method, path, media_type, body)
        end_s = time.monotonic() + (deadline_ms / 1000 or self._timeout_s)
        while True:
            connection, response = self._take(), Response()
            kept = connection is not None
            try:
                connection = connection or BlockingConnection(self._endpoint, _left_s(end_s))
                connection.exchange(request, response, _left_s(end_s))
            except OSError as error:
                if connection is not None:
                    connection.close()
                if kept and not response.begun and not isinstance(error, TimeoutError):
                    continue
                raise _unreachable(self._endpoint, error) from error
            self._give_back(connection, response)
            return response

    def _take(self) -> BlockingConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: BlockingConnection, response: Response) -> None:
        with self._lock:
            if response.reusable and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
                return
        connection.close()


class AsyncClient:
    """`Client` for an event loop: the same calls, awaited. Errors are those of `Client`."""

    def __init__(
        self, url: str, *, token: str | None = None, tls: ssl.SSLContext | None = None, timeout_s: float = 5.0
    ) -> None:
        self._endpoint = Endpoint.of(url, token, tls)
        self._timeout_s = timeout_s
        self._idle: list[AsyncConnection] = []

    async def rank(
        self, user: EntityRef, candidates: Candidates, *, top_k: int = 0, at_ms: int | None = None,
        deadline_ms: int = 0, in_request_order: bool = False,
    ) -> BinaryAnswer:  # fmt: skip
        """Rank candidates for a user: the best `top_k` (0: all) with their ids, or all scores in the given order."""
        body = _rank_body(user, candidates, top_k, at_ms, deadline_ms, in_request_order)
        return decode_answer(_checked(await self._call("POST", _RANK, MEDIA_TYPE, body, deadline_ms)))

    async def rank_json(self, **fields: Any) -> dict[str, Any]:
        """POST /v1/rank with a JSON body of these fields (docs/serving-api.md); for batches: `requests=[...]`."""
        body, deadline_ms = json.dumps(fields).encode(), fields.get("deadline_ms") or 0
        return _data(await self._call("POST", _RANK, _JSON, body, deadline_ms))

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON answer of a GET."""
        return _data(await self._call("GET", path, _JSON, b"", 0))

    async def item(self, item: EntityRef) -> dict[str, Any]:
        """What the server holds of an item."""
        return await self.get(_item_path(item))

    async def user_features(self, user: EntityRef) -> dict[str, Any]:
        """What the server holds of a user."""
        return await self.get(_user_path(user))

    async def close(self) -> None:
        """Close the connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: str, path: str, media_type: str, body: bytes, deadline_ms: int) -> Response:
        request = self._endpoint.request(method, path, media_type, body)
        try:
            async with asyncio.timeout(deadline_ms / 1000 or self._timeout_s):
                return await self._exchange(request)
        except OSError as error:
            raise _unreachable(self._endpoint, error) from error

    async def _exchange(self, request: bytes) -> Response:
        while True:
            response = Response()
            kept = self._idle.pop() if self._idle else None
            connection = kept or await AsyncConnection.open(self._endpoint)
            try:
                await connection.exchange(request, response)
            except BaseException as error:
                connection.close()
                if kept and not response.begun and isinstance(error, ConnectionError):
                    continue
                raise
            if response.reusable and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
            else:
                connection.close()
            return response


def _rank_body(
    user: EntityRef, candidates: Candidates, top_k: int, at_ms: int | None, deadline_ms: int, in_request_order: bool
) -> bytes:
    if isinstance(candidates, np.ndarray):
        ids = candidates
    else:
        ids = np.array([_entity(each) for each in candidates], dtype=np.int64)
    return encode_request(BinaryRequest(_entity(user), ids, top_k, at_ms, deadline_ms, in_request_order))


def _item_path(item: EntityRef) -> str:
    return f"/v1/items/{quote(str(item), safe='')}"


def _user_path(user: EntityRef) -> str:
    return f"/v1/users/{quote(str(user), safe='')}/features"


def _entity(ref: EntityRef) -> int:
    return hashed_id(ref) if isinstance(ref, str) else ref


def _data(response: Response) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_checked(response))
    return content


def _checked(response: Response) -> bytes:
    """The body of a 200. Raises what another status means, with the problem's sentence."""
    if response.status == 200:
        return bytes(response.body)
    raise _failure(response)


def _failure(response: Response) -> AifError:
    try:
        says = str(json.loads(bytes(response.body))["detail"])
    except (ValueError, KeyError, TypeError):
        says = bytes(response.body[:200]).decode("utf-8", "replace")
    message = f"{response.status}: {says}"
    if response.status in (408, 429, 502, 503, 504):
        return Unavailable(message)
    return BadInput(message) if 400 <= response.status < 500 else Corrupt(message)


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no time is left")
    return left_s


def _unreachable(endpoint: Endpoint, error: OSError) -> Unavailable:
    where = f"{endpoint.host}:{endpoint.port}"
    if isinstance(error, TimeoutError):
        return Unavailable(f"{where} did not answer in time")
    return Unavailable(f"{where} cannot be reached: {error}; is `aif serve` running there?")
