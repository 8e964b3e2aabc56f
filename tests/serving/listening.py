"""A real server over an application, in a thread."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import uvicorn

from serving.web.admission import Limits
from serving.web.connection import connection_class


class Listening:
    """uvicorn over an ASGI application, set up as `aif serve` does; a context manager."""

    def __init__(self, app, limits: Limits | None = None, tls: tuple[Path, Path] | None = None) -> None:
        limits = limits or Limits()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app, http=connection_class(limits), loop="asyncio", lifespan="off", log_config=None, access_log=False,
            timeout_keep_alive=int(limits.idle_s), timeout_graceful_shutdown=2,
            ssl_certfile=tls and tls[0], ssl_keyfile=tls and tls[1],
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self) -> Listening:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.should_exit = True
        self._thread.join(10)
        self.socket.close()
