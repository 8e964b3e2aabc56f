"""`aif model`: offer a trained artifact to the fleet, follow its roll-out, take it back."""

from __future__ import annotations

import click

from cli.durations import DURATION
from cli.model_asking import ask_of, asking, settle
from cli.model_compare import compare
from cli.model_status import history, status
from schemas.deployment import Deployment

__all__ = ["command"]


@click.group("model")
def command() -> None:
    """Publish model versions, watch them built, and take them back.

    A version is published, building (workers make its rows beside live traffic), covered (all rows are there), live,
    then retained for a roll-back, and retired in the end; or rejected, with the reason. VERSION may be shortened as
    long as it is clear; where it may be left out, the version that is on its way is meant.

    Every command but `status` and `history` is a request, on which the coordinator (a worker) decides: exit status 2
    says that it refused, 69 that nothing was decided yet.

    \b
    Examples:
      aif model publish .aif/artifacts/3f2a9c0d11e45b67 --reason "weekly training"
      aif model status --watch
      aif model rollback --reason "clicks fell"
    """


@command.command()
@click.argument("artifact", metavar="ARTIFACT")
@click.option(
    "--gate", type=click.FloatRange(0, 1), default=0.999, show_default=True, help="Share of items that need a row."
)
@click.option("--auto/--manual", default=True, show_default=True, help="Goes live by itself, or waits for `promote`.")
@click.option("--shadow", type=DURATION, default="0", show_default=True, help="Stay covered for this long first.")
@click.option(
    "--min-overlap",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Least mean top-k overlap with the live version, of requests scored in the shadow; 0 asks for none.",
)
@click.option(
    "--retain", type=DURATION, default="24h", show_default=True, help="Keep the version before it for a roll-back."
)
@click.option("--wait-live", is_flag=True, help="Wait until it is live; exit status 2 where it is rejected.")
@asking
def publish(
    artifact: str, gate: float, auto: bool, shadow: int, min_overlap: float, retain: int, wait_live: bool,
    reason: str, no_wait: bool, as_json: bool, deployment: Deployment,
) -> None:  # fmt: skip
    """Check every file of an artifact, then offer it to all workers and servers.

    ARTIFACT is a folder that they can all read, a version in the data folder, or a URL that fsspec reads (s3://...).
    Prints the version. Once its artifact is known as good, a version replaces one that was on its way before it.

    \b
    Examples:
      aif model publish .aif/artifacts/3f2a9c0d11e45b67
      aif model publish s3://models/3f2a9c0d11e45b67 --shadow 10m --min-overlap 0.8 --reason "weekly training"
      aif model publish 3f2a9c0d11e45b67 --manual && aif model promote
      aif model publish 3f2a9c0d11e45b67 --wait-live
    """
    from domain.rollout import Terms
    from producers.publish import publish as offer

    if wait_live and (no_wait or not auto):
        raise click.UsageError("--wait-live needs --auto and goes without --no-wait")
    sent = offer(deployment, artifact, Terms(gate, auto, shadow, min_overlap, retain), reason=reason)
    settle(deployment, sent, no_wait=no_wait, as_json=as_json, names_version=True, wait_live=wait_live)


@command.command()
@click.argument("version", required=False)
@asking
def promote(version: str | None, reason: str, no_wait: bool, as_json: bool, deployment: Deployment) -> None:
    """Make a covered version live now.

    \b
    Examples:
      aif model promote
      aif model promote 3f2a9c0d --reason "shadow looks good"
    """
    from producers.publish import promote as ask

    ask_of(deployment, ask, version, reason, no_wait=no_wait, as_json=as_json)


@command.command()
@click.argument("version", required=False)
@asking
def rollback(version: str | None, reason: str, no_wait: bool, as_json: bool, deployment: Deployment) -> None:
    """Make the retained version live again, at once.

    VERSION is the live version that is to go; left out, it is whatever is live. A build under way is cancelled.

    \b
    Examples:
      aif model rollback
      aif model rollback 3f2a9c0d --reason "clicks fell"
    """
    from producers.publish import rollback as ask

    ask_of(deployment, ask, version, reason, no_wait=no_wait, as_json=as_json, left_out="")


@command.command()
@click.argument("version", required=False)
@asking
def pause(version: str | None, reason: str, no_wait: bool, as_json: bool, deployment: Deployment) -> None:
    """Let a version on its way go no further by itself; workers finish what they are building.

    \b
    Example:
      aif model pause --reason "sale until 20:00"
    """
    from producers.publish import pause as ask

    ask_of(deployment, ask, version, reason, no_wait=no_wait, as_json=as_json)


@command.command()
@click.argument("version", required=False)
@asking
def resume(version: str | None, reason: str, no_wait: bool, as_json: bool, deployment: Deployment) -> None:
    """Let a paused version go on.

    \b
    Example:
      aif model resume
    """
    from producers.publish import resume as ask

    ask_of(deployment, ask, version, reason, no_wait=no_wait, as_json=as_json)


@command.command()
@click.argument("version", required=False)
@asking
def retire(version: str | None, reason: str, no_wait: bool, as_json: bool, deployment: Deployment) -> None:
    """Give up a version that is on its way or retained; its slot becomes free.

    \b
    Examples:
      aif model retire
      aif model retire 3f2a9c0d --reason "wrong data"
    """
    from producers.publish import retire as ask

    ask_of(deployment, ask, version, reason, no_wait=no_wait, as_json=as_json)


command.add_command(compare)
command.add_command(status)
command.add_command(history)
