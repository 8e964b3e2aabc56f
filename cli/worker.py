"""`aif worker`: run a stream worker."""

from __future__ import annotations

import os

import click

from cli.options import deployment_options, require_broker
from schemas.deployment import Deployment

__all__ = ["command"]


@click.command(
    "worker",
    epilog="""\b
Examples:
  aif worker                                    one worker on this machine
  aif worker --name worker-1 --web-port 6067    a second one: partitions are shared
  aif worker --instance-id pod-0                static membership: restarts move no partition
""",
)
@click.option("--name", help="Names this worker's folder of tables.  [env: AIF_WORKER_NAME; default: worker-0]")
@click.option("--web-host", help="Where /readyz and /metrics listen.  [env: AIF_WORKER_WEB_HOST; default: 127.0.0.1]")
@click.option("--web-port", type=int, help="Port of /readyz and /metrics.  [env: AIF_WORKER_WEB_PORT; default: 6066]")
@click.option(
    "--session-timeout",
    type=float,
    help="Seconds until a silent worker loses its partitions.  [env: AIF_WORKER_SESSION_TIMEOUT_S; default: 20]",
)
@click.option(
    "--instance-id", help="Kafka group instance id (static membership).  [env: AIF_WORKER_INSTANCE_ID; default: none]"
)
@click.option(
    "--standby-replicas",
    type=int,
    help="Warm copies of each partition on other workers.  [env: AIF_WORKER_STANDBY_REPLICAS; default: 0]",
)
@click.option(
    "--broker-budget",
    type=float,
    help="Seconds without a broker until the worker ends itself.  [env: AIF_WORKER_BROKER_BUDGET_S; default: 60]",
)
@click.option(
    "--reset-recreated",
    is_flag=True,
    default=None,
    help="Where a source topic was deleted and made again: empty its tables and make them anew.",
)
@click.option(
    "--rebuild-items-per-s",
    type=float,
    help="Items a second that building a model version may take; 0: as fast as live updates allow."
    "  [env: AIF_WORKER_REBUILD_ITEMS_PER_S; default: 0]",
)
@click.option("--failpoint", metavar="ACTION:STEP:COUNT", hidden=True, help="For crash tests.")
@deployment_options
def command(
    deployment: Deployment,
    name: str | None,
    web_host: str | None,
    web_port: int | None,
    session_timeout: float | None,
    instance_id: str | None,
    standby_replicas: int | None,
    broker_budget: float | None,
    reset_recreated: bool | None,
    rebuild_items_per_s: float | None,
    failpoint: str | None,
) -> None:
    """Run a stream worker: item updates and user events into tables and changelogs.

    Stops in good order on SIGTERM and Ctrl-C. Ends with status 69 where the broker is gone for too long, 70 where
    something is wrong; a supervisor should start it again, nothing is lost or counted twice.
    """
    require_broker(deployment)  # before torch and Faust are imported, which takes seconds
    from streams.topology import WorkerSettings, build_worker
    from streams.worker import run

    settings = WorkerSettings.from_env(
        os.environ,
        name=name,
        web_host=web_host,
        web_port=web_port,
        session_timeout_s=session_timeout,
        instance_id=instance_id,
        standby_replicas=standby_replicas,
        broker_budget_s=broker_budget,
        reset_recreated=reset_recreated,
        rebuild_items_per_s=rebuild_items_per_s,
        failpoint=failpoint,
    )
    run(build_worker(deployment, settings))
