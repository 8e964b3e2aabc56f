"""A client's connection: uvicorn's own, with the bounds that it lacks.

uvicorn closes a connection that is idle between two requests; one that sends its request's head a byte a minute, a head
without end, or nothing at all it keeps for ever, and it takes any number of connections. Here a head has a time and a
size, and what comes beyond the most connections is closed at once.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.web.admission import Limits

__all__ = ["connection_class"]


def connection_class(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol class of a server with these limits, for uvicorn's `http` setting."""

    class Connection(HttpToolsProtocol):
        """One connection."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head_bytes = 0
            self._in_head = False
            self._overdue: asyncio.TimerHandle | None = None
            if len(self.connections) > limits.connections:
                transport.close()
            else:
                self._allow(limits.idle_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._done()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            waiting = self.cycle is None or self.cycle.response_complete
            if waiting and not self._in_head:
                self._in_head, self._head_bytes = True, 0
                self._allow(limits.head_s)
            if self._in_head:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._in_head and self._head_bytes > limits.head_bytes and not self.transport.is_closing():
                self.transport.close()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._done()
            super().on_headers_complete()

        def _allow(self, seconds: float) -> None:
            self._done()
            self._overdue = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

        def _done(self) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

    return Connection
