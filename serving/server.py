"""The serving process: state, feed and HTTP server put together, and their orderly end."""

from __future__ import annotations

import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import uvicorn

from schemas.deployment import Deployment
from schemas.errors import BadInput
from serving.admission import Limits
from serving.api import create_app
from serving.connection import connection_class
from serving.feed import Feed
from serving.freshness import Freshness
from serving.metrics import Metrics
from serving.progress import Progress
from serving.service import Service
from serving.store import Store
from serving.versions import Versions

__all__ = ["serve"]

#: Threads that score. More than cores would only add waiting to everybody's time.
_SCORERS: Final = 2
_DRAIN_S: Final = 10

_log = logging.getLogger(__name__)


def serve(deployment: Deployment, host: str, port: int, tables: Path | None, gate: float) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Raises BadInput where the address cannot be bound.
    """
    store = Store()
    versions, progress, freshness = Versions(store, gate), Progress(), Freshness()
    metrics = Metrics(store, versions, progress)
    feed = Feed(deployment, store, versions, progress, freshness, metrics, tables)
    listener = _bind(host, port)
    _log.info("aif serve: http://%s:%d (docs/serving-api.md)", host, listener.getsockname()[1])
    _log.info(
        "broker %s, topics %s*, tables %s", deployment.bootstrap_servers, deployment.prefix, tables or "none here"
    )
    # uvicorn raises the signal again once it has drained; by default that would end the process before the feed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with ThreadPoolExecutor(_SCORERS, thread_name_prefix="score") as scorers:
        service = Service(deployment, store, versions, progress, metrics, scorers=scorers)
        limits = Limits()
        config = uvicorn.Config(
            create_app(service, metrics, freshness, limits),
            loop="uvloop",
            http=connection_class(limits),
            ws="none",
            lifespan="off",
            access_log=False,
            server_header=False,
            log_config=None,
            log_level=logging.WARNING,
            timeout_keep_alive=int(limits.idle_s),
            timeout_graceful_shutdown=_DRAIN_S,
        )
        feed.start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            _log.info("stopping: requests are drained")
            feed.stop()
            listener.close()
    _log.info("stopped")


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket, bound before anything else starts: a taken port is the first thing to be known."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise BadInput(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from error
    return listener
