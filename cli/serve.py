"""`aif serve`: score candidates over HTTP."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from cli.options import deployment_options
from schemas.deployment import Deployment


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--tables",
    type=click.Path(path_type=Path, file_okay=False),
    help="Workers' tables on this host, to start from  [default: <data-dir>/tables where it is]",
)
@click.option(
    "--gate",
    default=0.999,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of live items that must have rows of a new model before it answers.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 32),
    help="Processes that score, beside the feeder.",
)
@deployment_options
def command(deployment: Deployment, host: str, port: int, tables: Path | None, gate: float, workers: int) -> None:
    """Score candidates over HTTP from what the workers have made of items and users.

    One process follows the changelogs and keeps all rows under <data-dir>/serving; those that score map them. Answers
    go on while the broker is away, and a restart reads only what is new.

    \b
    Examples:
      aif serve
      aif serve --port 9000 --tables .aif/tables
      aif serve --workers 4
      curl -s 127.0.0.1:8080/readyz
      curl -s 127.0.0.1:8080/v1/rank -d '{"user_id": 42, "candidates": [1, 2, 3], "top_k": 2}'
    """
    # Request threads are the parallelism; BLAS threads of their own would make them fight over cores. numpy reads
    # this when it is first imported, which is below.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from serving.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # aiokafka logs every failed attempt to connect; the feed says once what is wrong and what to do.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    local = deployment.data_dir / "tables"
    serve(deployment, host, port, tables or (local if local.is_dir() else None), gate, workers)
