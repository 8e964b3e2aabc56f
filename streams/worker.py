"""The worker as a process: `faust -A streams.worker worker`, or `aif worker`.

The only module with a module-level app; settings come from the environment (schemas/deployment.py, AIF_WORKER_*).
"""

from __future__ import annotations

import gc
import io
import logging
import os
from typing import Any

import faust
from mode.loop import use as use_loop

from schemas.deployment import Deployment
from streams.topology import Worker, WorkerSettings, build_worker

__all__ = ["run"]

#: Faust, aiokafka and kafka-python log every record or every poll at DEBUG and INFO; building those records costs
#: more than the records themselves.
_QUIET = ("aiokafka", "faust", "mode", "kafka", "aiohttp", "streams.tables", "streams.batching")


def run(worker: Worker) -> None:
    """Run a worker until it is told to stop (SIGTERM, SIGINT)."""
    use_loop("uvloop")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    worker.prepare()
    # Torch and Faust leave half a million objects that never die, and a batch makes tens of thousands of dictionaries:
    # with Python's defaults a third of a fold's time went into collecting garbage that was not there.
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    # Faust draws a spinner on its stdout, and resets the cursor even where it is a file.
    process = faust.Worker(worker.app, loglevel=None, quiet=True, override_logging=False, stdout=io.StringIO())
    process.execute_from_commandline()


def __getattr__(name: str) -> Any:
    """`app`, built when Faust's command line asks for it and not on import."""
    if name != "app":
        raise AttributeError(name)
    environment = os.environ
    worker = build_worker(
        Deployment.from_env(environment),
        WorkerSettings(
            name=environment.get("AIF_WORKER_NAME", "worker-0"),
            web_port=int(environment.get("AIF_WORKER_WEB_PORT", "6066")),
        ),
    )
    worker.prepare()
    globals()["app"] = worker.app
    return worker.app
