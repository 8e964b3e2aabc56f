"""`aif topics`: make, check and describe the topics of a deployment."""

from __future__ import annotations

import json

import click

from cli.options import deployment_options
from schemas.deployment import Deployment

__all__ = ["command"]


@click.group("topics")
def command() -> None:
    """Make, check and describe the deployment's topics.

    \b
    Examples:
      aif topics create --partitions 8
      aif topics list
      aif topics describe user-events
      aif topics document > topology.md
      aif topics rollout
    """


@command.command()
@deployment_options
def create(deployment: Deployment) -> None:
    """Create what is missing and check what exists; a second time changes nothing.

    \b
    Examples:
      aif topics create
      aif topics create --prefix staging- --partitions 8
    """
    from producers.topics import create_topics

    made = create_topics(deployment)
    for name, new in made.items():
        click.echo(f"{'created' if new else 'exists '}  {name}")


@command.command("list")
@deployment_options
def list_topics(deployment: Deployment) -> None:
    """Every topic of the deployment and whether the broker has it.

    \b
    Example:
      aif topics list
    """
    from producers.topics import topic_states

    for state in topic_states(deployment):
        there = f"{state.partitions} partitions" if state.partitions else "missing: aif topics create"
        click.echo(f"{state.name:<40} {state.topic.cleanup:<15} {there}")


@command.command()
@click.argument("names", metavar="[TOPIC]...", nargs=-1)
@deployment_options
def describe(names: tuple[str, ...], deployment: Deployment) -> None:
    """Contract and broker settings of topics as JSON; all of them where none is named.

    \b
    Examples:
      aif topics describe
      aif topics describe user-events items-changelog
    """
    from producers.topics import described

    click.echo(json.dumps(described(deployment, names), indent=1))


@command.command()
def document() -> None:
    """Print topology.md, which is made from schemas/topics.py and the Avro schemas.

    \b
    Example:
      aif topics document > topology.md
    """
    from producers.topology_document import topology_document

    click.echo(topology_document(), nl=False)


@command.command()
def rollout() -> None:
    """Print the phases of a model version: the diagram and the table of docs/rollout.md.

    \b
    Example:
      aif topics rollout
    """
    from producers.rollout_document import rollout_document

    click.echo(rollout_document(), nl=False)
