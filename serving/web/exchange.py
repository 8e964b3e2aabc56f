"""One HTTP exchange over ASGI: reading a body within its bounds, sending an answer, and every error as a problem.

Plain ASGI messages, no framework: on the path that ranks, request and response objects cost more than parsing the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, NamedTuple

import orjson

from serving.web.admission import RETRY_AFTER_S, Admission

__all__ = ["JSON", "PROBLEM", "Receive", "Reply", "Scope", "Send", "header", "json_reply", "problem", "read_body"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
_TITLES: Final = {
    400: "Bad request",
    401: "Not authorised",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Another model version",
    413: "Body too large",
    415: "Unknown content type",
    500: "Internal error",
    503: "Not available",
}


class Reply(NamedTuple):
    """A response, whole."""

    status: int
    body: bytes
    media_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Send) -> None:
        """Send it. What goes to a client that has left is dropped by the server."""
        head = [
            (b"content-type", self.media_type),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(content: Any) -> Reply:
    """200 with JSON."""
    return Reply(200, orjson.dumps(content))


def problem(
    status: int, detail: str, more: dict[str, Any] | None = None, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Reply:
    """An error as application/problem+json (RFC 9457); `detail` is a sentence that says what to do."""
    title = _TITLES.get(status, "Error")
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **(more or {})}
    if status == 503:
        headers = (*headers, (b"retry-after", b"%d" % RETRY_AFTER_S))
    return Reply(status, orjson.dumps(body), PROBLEM, headers)


def header(scope: Scope, name: bytes) -> bytes:
    """A request header's value, empty where there is none. Names are in lower case, as ASGI has them."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


async def read_body(receive: Receive, admission: Admission) -> bytes | Reply | None:
    """The body, whose bytes the caller releases; a problem where it breaks a bound; None where the client left."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        return _held(body, admission)
    try:
        async with asyncio.timeout(admission.limits.body_s):
            return await _rest(message, receive, admission)
    except TimeoutError:
        return problem(408, f"the body did not end within {admission.limits.body_s:g} s", headers=_CLOSE)


async def _rest(message: MutableMapping[str, Any], receive: Receive, admission: Admission) -> bytes | Reply | None:
    body, taken, refused = bytearray(), 0, None
    try:
        while True:
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            body += chunk
            refused = _refusal(len(body), len(chunk), admission)
            if refused:
                return refused
            taken += len(chunk)
            if not message.get("more_body"):
                whole, taken = bytes(body), 0  # the bytes are the caller's to release
                return whole
            message = await receive()
    finally:
        admission.release(taken)


def _held(body: bytes, admission: Admission) -> bytes | Reply:
    return _refusal(len(body), len(body), admission) or bytes(body)


def _refusal(size: int, more: int, admission: Admission) -> Reply | None:
    """Takes the bytes, or says why not."""
    limit = admission.limits.body_bytes
    if size > limit:
        return problem(413, f"the body is larger than {limit} bytes: send fewer candidates per request", headers=_CLOSE)
    if not admission.hold(more):
        return problem(503, "too many bytes of requests are waiting here: ask again later", headers=_CLOSE)
    return None


#: What is still coming of a body that is not read is not worth reading.
_CLOSE: Final = ((b"connection", b"close"),)
