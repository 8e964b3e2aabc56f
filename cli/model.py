"""`aif model`: offer a trained artifact to the fleet, and list what was offered."""

from __future__ import annotations

import getpass
import json

import click

from cli.options import deployment_options
from schemas.deployment import Deployment

__all__ = ["command"]


@click.group("model")
def command() -> None:
    """Publish and list model versions.

    \b
    Examples:
      aif model publish .aif/artifacts/3f2a9c0d11e45b67
      aif model list
    """


@command.command()
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--reason", default="", help="Why, for those who read the list.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON object.")
@deployment_options
def publish(artifact: str, reason: str, as_json: bool, deployment: Deployment) -> None:
    """Check every file of an artifact, then offer it to all workers and servers.

    ARTIFACT is a folder that they can all read, or a version in the data folder.

    \b
    Examples:
      aif model publish .aif/artifacts/3f2a9c0d11e45b67
      aif model publish 3f2a9c0d11e45b67 --reason "weekly training"
    """
    from producers.publish import publish as offer

    record = offer(deployment, artifact, published_by=_user(), reason=reason)
    click.echo(json.dumps(record) if as_json else record["version"])


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@deployment_options
def list_models(as_json: bool, deployment: Deployment) -> None:
    """Model versions in the order in which they were published; `*` marks the one that counts.

    \b
    Example:
      aif model list
    """
    from producers.event_time import time_text
    from producers.publish import list_versions

    offered = list_versions(deployment)
    if not offered:
        click.echo("no model version yet; offer one with `aif model publish ARTIFACT`", err=True)
    newest = max((each.offset for each in offered if each.record), default=None)
    for each in offered:
        if as_json:
            click.echo(json.dumps({"offset": each.offset, "current": each.offset == newest, **(each.record or {})}))
            continue
        mark = "*" if each.offset == newest else " "
        record = each.record
        what = f"{record['version']}  {record['uri']}  {record['reason']}" if record else f"unreadable: {each.problem}"
        click.echo(f"{mark} {each.offset:>4}  {time_text(each.append_time_ms)}  {what}".rstrip())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # No account for this user id, as in many containers.
        return ""
