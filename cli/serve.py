"""`aif serve`: score candidates over HTTP."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from cli.options import deployment_options
from schemas.deployment import Deployment

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--tables",
    type=click.Path(path_type=Path, file_okay=False),
    help="Workers' tables on this host, to start from  [default: <data-dir>/tables where it is]",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 32),
    help="Processes that score, beside the feeder.",
)
@click.option("--filters", type=_FILE, help="JSON file of what to leave out of rankings (docs/serving-api.md).")
@click.option(
    "--keep-answers",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of answers that are kept for `aif why`.",
)
@click.option(
    "--answers-on-disk",
    is_flag=True,
    help="Keep them in <data-dir>/answers too, at most 256 MiB; done anyway with several workers.",
)
@click.option(
    "--kernel",
    envvar="AIF_KERNEL",
    metavar="[c|c-bfloat16|c-float32|numba|numpy]",
    help="What computes scores; also AIF_KERNEL. c rounds to int8 where the processor has AVX-512 VNNI, the last three "
    "compute in float32.  [default: the fastest that runs here]",
)
@click.option("--token-file", type=_FILE, help="File with the token that clients must send  [default: AIF_TOKEN]")
@click.option("--tls-cert", type=_FILE, help="Certificate chain (PEM): serves https.")
@click.option("--tls-key", type=_FILE, help="Its private key (PEM).")
@click.option(
    "--user-states-mb", default=256, show_default=True, type=click.IntRange(1), help="Memory of computed user states."
)
@click.option(
    "--retrieval", type=click.Choice(["none", "popular", "exact", "approximate"]), default="none", show_default=True,
    help="What each process keeps to take candidates from: popular items, or also an index of item vectors.",
)  # fmt: skip
@click.option(
    "--shadow-share",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of requests that a version about to go live scores too, after their answers; 0: none.",
)
@click.option(
    "--most-requests", default=256, show_default=True, type=click.IntRange(1),
    help="Rank requests under way in each process; what is beyond gets 503 and when to ask again.",
)  # fmt: skip
@click.option(
    "--most-connections", default=1024, show_default=True, type=click.IntRange(1),
    help="Open connections of each process; a further one is closed.",
)  # fmt: skip
@click.option(
    "--most-body-kb", default=1024, show_default=True, type=click.IntRange(1, 65536), help="Of one request's body: 413."
)
@click.option("--insecure", is_flag=True, help="Listen on other addresses than loopback without a token.")
@deployment_options
def command(
    deployment: Deployment, host: str, port: int, tables: Path | None, workers: int, filters: Path | None,
    token_file: Path | None, tls_cert: Path | None, tls_key: Path | None, insecure: bool,
    keep_answers: float, answers_on_disk: bool, user_states_mb: int, retrieval: str, shadow_share: float,
    kernel: str | None, most_requests: int, most_connections: int, most_body_kb: int,
) -> None:  # fmt: skip
    """Score candidates over HTTP from what the workers have made of items and users.

    One process follows the changelogs and keeps all rows under <data-dir>/serving; those that score map them. Answers
    go on while the broker is away, and a restart reads only what is new.

    \b
    Examples:
      aif serve
      aif serve --port 9000 --tables .aif/tables
      aif serve --workers 4
      aif serve --host 0.0.0.0 --token-file token --tls-cert chain.pem --tls-key key.pem --filters filters.json
      curl -s 127.0.0.1:8080/readyz
      curl -s 127.0.0.1:8080/v1/rank -d '{"user_id": 42, "candidates": [1, 2, 3], "top_k": 2}'
    """
    # Request threads are the parallelism; BLAS threads of their own would make them fight over cores. numpy reads
    # this when it is first imported, which is below.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from serving.kernels import choose
    from serving.ranking.post_processing import NO_FILTERS, Filters
    from serving.ranking.samples import SAMPLES_FOLDER, Samples
    from serving.web.admission import Limits
    from serving.web.exposure import Exposure, read_token
    from serving.web.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # aiokafka logs every failed attempt to connect; the feed says once what is wrong and what to do.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    choose(kernel)
    local = deployment.data_dir / "tables"
    exposure = Exposure(host, port, read_token(token_file, os.environ.get("AIF_TOKEN")), tls_cert, tls_key, insecure)
    declared = Filters.read(filters) if filters else NO_FILTERS
    # Whoever asks for a kept answer cannot choose the process: of several, `aif why` reads the folder.
    on_disk = answers_on_disk or workers > 1
    samples = Samples(keep_answers, deployment.data_dir / SAMPLES_FOLDER if on_disk else None)
    limits = Limits(body_bytes=most_body_kb << 10, connections=most_connections, under_way=most_requests)
    serve(
        deployment, exposure, tables or (local if local.is_dir() else None), declared, samples, user_states_mb, workers,
        retrieval, shadow_share, limits,
    )  # fmt: skip
