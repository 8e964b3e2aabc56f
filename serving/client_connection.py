"""HTTP/1.1 for the client: what goes over one connection, blocking or on an event loop.

Nothing here knows what a ranking is. Both connections share the bytes (`Endpoint.request`, `Response`); they differ
only in how they wait. A connection carries one exchange at a time and is kept for the next one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

from schemas.errors import BadInput

__all__ = ["AsyncConnection", "BlockingConnection", "Endpoint", "Response"]

_CHUNK: Final = 1 << 18


@dataclass(frozen=True)
class Endpoint:
    """Where a server is."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    head: bytes  #: headers of every request

    @classmethod
    def of(cls, url: str, token: str | None, tls: ssl.SSLContext | None) -> Endpoint:
        """An endpoint of `http://host:port` or `https://host:port`. Raises BadInput where the URL is another."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise BadInput(f"{url!r} is no server: expected http://HOST:PORT or https://HOST:PORT")
        secure = parts.scheme == "https"
        head = f"Host: {parts.netloc}\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")
        context = (tls or ssl.create_default_context()) if secure else None
        return cls(parts.hostname, parts.port or (443 if secure else 80), context, head.encode())

    def request(self, method: str, path: str, media_type: str, body: bytes) -> bytes:
        """The bytes of a request."""
        described = f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n" if body else "\r\n"
        return b"".join((f"{method} {path} HTTP/1.1\r\n".encode(), self.head, described.encode(), body))


@dataclass
class Response:
    """A response as it arrives; httptools calls the `on_` methods."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    reusable: bool = False  #: the connection can carry another exchange

    def __post_init__(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)

    @property
    def begun(self) -> bool:
        """Whether any of it has arrived."""
        return bool(self.status)

    def feed(self, data: bytes) -> bool:
        """Take bytes; says whether the response is complete. Raises ConnectionError where they are no HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ConnectionError(f"the answer is not HTTP: {error}") from error
        return self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is there."""
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self.body += data

    def on_message_complete(self) -> None:
        """Everything is there."""
        self.complete, self.reusable = True, self._parser.should_keep_alive()


class BlockingConnection:
    """A connection of the blocking client. Errors are OSErrors, a time that has run out among them."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._socket: socket.socket = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.tls is not None:
                self._socket = endpoint.tls.wrap_socket(self._socket, server_hostname=endpoint.host)
        except BaseException:
            self.close()
            raise

    def exchange(self, request: bytes, response: Response, timeout_s: float) -> None:
        """Send a request and read its response. `timeout_s` bounds every single wait."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(request)
        while True:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            if response.feed(data):
                return

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class AsyncConnection(asyncio.Protocol):
    """A connection of the asynchronous client."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._response: Response | None = None
        self._arrived: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, endpoint: Endpoint) -> AsyncConnection:
        """Connect. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, endpoint.host, endpoint.port, ssl=endpoint.tls)
        return connection

    async def exchange(self, request: bytes, response: Response) -> None:
        """Send a request and wait for its response. Raises OSError where the connection breaks."""
        if self._transport.is_closing():
            raise ConnectionResetError("the server closed the connection")
        self._response = response
        self._arrived = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._arrived

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A part of the response."""
        if self._response is None or self._arrived is None or self._arrived.done():
            self._transport.close()  # bytes that nobody asked for
            return
        try:
            if self._response.feed(data):
                self._arrived.set_result(None)
        except ConnectionError as error:
            self._arrived.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_exception(exc or ConnectionResetError("the server closed the connection"))
