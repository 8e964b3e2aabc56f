"""`aif worker`: run a stream worker."""

from __future__ import annotations

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
@click.option("--name", default="worker-0", show_default=True, help="Names this worker's folder of tables.")
@click.option("--web-host", default="127.0.0.1", show_default=True, help="Where /readyz and /metrics listen.")
@click.option("--web-port", default=6066, show_default=True, help="Port of /readyz and /metrics.")
@click.option(
    "--session-timeout", default=20.0, show_default=True, help="Seconds until a silent worker loses its partitions."
)
@click.option("--instance-id", default="", help="Kafka group instance id (static membership); default: none.")
@click.option(
    "--standby-replicas", default=0, show_default=True, help="Warm copies of each partition on other workers."
)
@click.option("--failpoint", default="", metavar="ACTION:STEP:COUNT", hidden=True, help="For crash tests.")
@deployment_options
def command(
    deployment: Deployment,
    name: str,
    web_host: str,
    web_port: int,
    session_timeout: float,
    instance_id: str,
    standby_replicas: int,
    failpoint: str,
) -> None:
    """Run a stream worker: item updates and user events into tables and changelogs.

    Stops in good order on SIGTERM and Ctrl-C. Ends with status 69 where the broker is gone for too long, 70 where
    something is wrong; a supervisor should start it again, nothing is lost or counted twice.
    """
    require_broker(deployment)  # before torch and Faust are imported, which takes seconds
    from streams.topology import WorkerSettings, build_worker
    from streams.worker import run

    settings = WorkerSettings(
        name=name,
        web_host=web_host,
        web_port=web_port,
        session_timeout_s=session_timeout,
        instance_id=instance_id,
        standby_replicas=standby_replicas,
        failpoint=failpoint,
    )
    run(build_worker(deployment, settings))
