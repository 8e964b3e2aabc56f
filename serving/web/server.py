"""`aif serve`: its processes (processes.py), and one that scores: state, HTTP server, and their orderly end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn

from schemas.deployment import Deployment
from schemas.errors import BadInput
from serving.feeding.feeder import FRESHNESS_FILE, Feeder
from serving.feeding.freshness import Freshness
from serving.feeding.processes import Processes
from serving.feeding.state import StateFolder
from serving.metrics import Metrics
from serving.process_metrics import ProcessMetrics
from serving.quiet import free_of_garbage, quick_to_switch, usable_cores
from serving.ranking.merger import Merger
from serving.ranking.merger_metrics import MergerMetrics
from serving.ranking.post_processing import Filters
from serving.ranking.retrieval import catalogue_of, retrievers_of
from serving.ranking.samples import Samples
from serving.ranking.service import Service
from serving.ranking.turns import Turns
from serving.rollout.following import Follower
from serving.rollout.shadow import Shadow, compared_now
from serving.rollout.shadow_board import ShadowBoard
from serving.rollout.shadow_metrics import ShadowMetrics
from serving.rollout.shadow_scorer import ShadowScorer
from serving.rollout.versions import Versions
from serving.tables.progress import Progress
from serving.tables.slab import compile_slabs
from serving.tables.store import Store
from serving.user.upkeep import Upkeep
from serving.web.admission import Limits
from serving.web.api import Application, create_app
from serving.web.connection import connection_class
from serving.web.exposure import Exposure

__all__ = ["score", "serve"]

#: Threads that score. More than cores would only add waiting to everybody's time.
_SCORERS: Final = 2
#: Threads that run user phases, a batch at a time.
_PHASES: Final = 1
_SWEEP_S: Final = 60.0
#: How long a new process lets others answer while it loads what is live.
_WARM_S: Final = 15.0
_DRAIN_S: Final = 10
#: Folder of what each scoring process has counted.
_METRICS: Final = "metrics"
#: Beyond that, until a process that does not end is killed.
_MARGIN_S: Final = 5.0

_log = logging.getLogger(__name__)


def serve(
    deployment: Deployment, exposure: Exposure, tables: Path | None, filters: Filters, samples: Samples,
    user_states_mb: int, workers: int, retrieval: str, shadow_share: float, limits: Limits,
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Raises BadInput where the address cannot be bound.
    """
    listener = _bind(exposure.host, exposure.port)
    _log.info("aif serve: %s:%d (docs/serving-api.md)", exposure.url, listener.getsockname()[1])
    if exposure.token and not exposure.is_loopback and exposure.tls_cert is None:
        _log.warning("the token travels in the clear: give --tls-cert and --tls-key, or put TLS in front")
    _log.info(
        "broker %s, topics %s*, tables %s", deployment.bootstrap_servers, deployment.prefix, tables or "none here"
    )
    compile_slabs()
    _prepare_state(deployment)
    feeder = Feeder(deployment, tables, shadow_share)
    scorer = partial(
        score, deployment, listener, exposure, filters, samples, user_states_mb << 20, retrieval, shadow_share, limits
    )
    scorers: list[tuple[str, Callable[[], None]]] = [
        (f"scoring process {number}", partial(scorer, number)) for number in range(workers)
    ]
    Processes([[("the feeder", feeder.run)], scorers]).run(_DRAIN_S + _MARGIN_S)
    listener.close()
    _log.info("stopped")


def score(
    deployment: Deployment, listener: socket.socket, exposure: Exposure, filters: Filters,
    samples: Samples, user_state_bytes: int, retrieval: str, shadow_share: float, limits: Limits, number: int,
) -> None:  # fmt: skip
    """Scoring process `number`: answer what the listener accepts, until SIGTERM or SIGINT; then drain."""
    # uvicorn raises the signal again once it has drained; by default that would end the process there.
    ending = threading.Event()
    for ends in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ends, lambda *_: ending.set())
    folder = StateFolder.of(deployment)
    store = Store(folder.path(folder.control.state), folder.readers)
    versions, progress = Versions(store, folder.control), Progress()
    freshness = Freshness(folder.folder / FRESHNESS_FILE)
    metrics = Metrics(store, versions, progress, freshness)
    processes = ProcessMetrics(folder.folder / _METRICS, number, metrics.registry)
    metrics.share(processes)
    follower = Follower(deployment, folder, store, versions, progress)
    with (
        ThreadPoolExecutor(_SCORERS, thread_name_prefix="score") as scorers,
        ThreadPoolExecutor(_PHASES, thread_name_prefix="phase") as phases,
    ):
        turns = Turns(scorers, min(_SCORERS, usable_cores()))
        merger = Merger.of(store, versions, turns, phases, user_state_bytes)
        metrics.registry.register(MergerMetrics(merger.users, turns))
        catalogue = None if retrieval == "none" else catalogue_of(retrieval, merger.popularity)
        upkeep = Upkeep(versions, merger.users, merger.speeds, catalogue, _SWEEP_S)
        retrievers = retrievers_of(catalogue)
        shadow = _shadow(shadow_share, folder, store, versions, metrics)
        service = Service(deployment, store, versions, progress, metrics, filters, merger, samples, retrievers, shadow)
        app = create_app(service, metrics, freshness, limits, exposure.token)
        server = uvicorn.Server(_http(app, limits, exposure))
        follower.start()
        upkeep.start()
        shadow.start()
        processes.start()
        try:
            follower.wait_for_live(_WARM_S, ending)
            if not ending.is_set():
                quick_to_switch()
                free_of_garbage()
                server.run(sockets=[listener])
        finally:
            _log.info("stopping: requests are drained")
            processes.stop()
            shadow.stop()
            upkeep.stop()
            follower.stop()
    store.close()


def _http(app: Application, limits: Limits, exposure: Exposure) -> uvicorn.Config:
    return uvicorn.Config(
        app,
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
        ssl_certfile=exposure.tls_cert,
        ssl_keyfile=exposure.tls_key,
    )


def _shadow(share: float, folder: StateFolder, store: Store, versions: Versions, metrics: Metrics) -> Shadow:
    """What scores in the shadow in this process."""
    row = ShadowBoard(folder.folder).claim()
    shadow = Shadow(share, row, partial(compared_now, versions, store), ShadowScorer(store.users))
    metrics.registry.register(ShadowMetrics(shadow, row))
    return shadow


def _prepare_state(deployment: Deployment) -> None:
    """See to it that there is a state that can be opened, before anybody reads it."""
    folder = StateFolder.of(deployment)
    if (lock := folder.lock()) is not None:
        folder.open_or_create()[1].close()
        os.close(lock)


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
