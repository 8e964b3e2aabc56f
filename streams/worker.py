"""The worker as a process: `aif worker`, or `faust -A streams.worker worker`.

The only module with a module-level app; its settings come from the environment (AIF_*, schemas/deployment.py, and
AIF_WORKER_*, topology.py). Both commands run the same process: Faust's options for log and loop change nothing.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import threading
from typing import Any

import click
import faust
from mode.loop import use as use_loop

from schemas.deployment import Deployment
from schemas.errors import AifError, Unavailable, exit_status
from streams.topology import Worker, WorkerSettings, build_worker

__all__ = ["run"]

#: An orderly stop that takes longer is none.
_STOP_WITHIN_S = 9.0
#: Faust, aiokafka and kafka-python log every record or every poll at DEBUG and INFO; building those records costs
#: more than the records themselves.
_QUIET = ("aiokafka", "faust", "mode", "aiohttp", "streams.tables", "streams.batching")


def run(worker: Worker) -> None:
    """Run a worker until it is told to stop (SIGTERM, SIGINT). Raises what `Worker.prepare` raises."""
    use_loop("uvloop")
    _set_up(worker)
    _Process(worker.app).execute_from_commandline()


class _Process(faust.Worker):  # type: ignore[misc]
    """Faust's process, silent: it draws a spinner on its stdout, and resets the cursor even where that is a file."""

    def __init__(self, app: faust.App, *services: Any, loop: Any = None, **options: Any) -> None:
        super().__init__(app, *services, loop=loop, quiet=True, override_logging=False, stdout=io.StringIO())

    def _schedule_shutdown(self, signal: Any) -> None:
        # Without a broker Faust and aiokafka wait for answers in turn. The stores are closed by then, or can be
        # restored: nothing is gained by waiting on.
        super()._schedule_shutdown(signal)
        giving_up = threading.Timer(_STOP_WITHIN_S, _give_up)
        giving_up.daemon = True
        giving_up.start()


def _give_up() -> None:
    error = Unavailable("the broker does not answer the goodbye; ending without it")
    logging.getLogger(__name__).error("%s", error)
    logging.shutdown()
    os._exit(exit_status(error))


def _set_up(worker: Worker) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # its failures reach the user as errors of ours
    worker.prepare()
    # Torch and Faust leave half a million objects that never die, and a batch makes tens of thousands of dictionaries:
    # with Python's defaults a good part of a fold's time goes into looking for garbage that is not there.
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


class _CommandLineError(click.ClickException):
    """An error of ours as Faust's command line can print it: one line, and the exit status of `aif worker`."""

    def __init__(self, error: AifError) -> None:
        super().__init__(str(error))
        self.exit_code = exit_status(error)


def _process_of(worker: Worker) -> type[_Process]:
    """What Faust's `worker` command runs. Only it: other commands just list what the app has, and take nothing."""

    class Process(_Process):
        def execute_from_commandline(self) -> None:
            try:
                _set_up(worker)
            except AifError as error:
                line = _CommandLineError(error)
                line.show()
                raise SystemExit(line.exit_code) from error  # of anything else Faust would show the traceback
            super().execute_from_commandline()

    return Process


def __getattr__(name: str) -> Any:
    """`app`, built when Faust's command line asks for it and not on import."""
    if name != "app":
        raise AttributeError(name)
    use_loop("uvloop")
    try:
        worker = build_worker(Deployment.from_env(os.environ), WorkerSettings.from_env(os.environ))
    except AifError as error:
        raise _CommandLineError(error) from error
    worker.app.conf.Worker = _process_of(worker)
    globals()["app"] = worker.app
    return worker.app
