"""`aif broker`: Apache Kafka as one local process, for development, tests and the demo."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from cli.options import data_dir_option

__all__ = ["command"]


@click.group()
def command() -> None:
    """Apache Kafka 4.1 as one process on this machine (KRaft, loopback only).

    Needs a JDK 17 or later, and at the first start Maven 3.8 or later, which downloads Kafka (45 MB). Data, logs and
    the record of what runs are kept in <data-dir>/broker; other commands find the broker there. For production, and
    for a broker in a container, see docker-compose.kafka.yml.

    \b
    Examples:
      aif broker start
      aif broker status
      aif broker logs --follow
      aif broker stop
    """


@command.command()
@data_dir_option
def start(data_dir: Path) -> None:
    """Start the broker and wait until it answers; harmless when it runs already.

    \b
    Examples:
      aif broker start
      aif broker start --data-dir /var/tmp/aif
    """
    from cli.local_broker import LocalBroker

    broker = LocalBroker(data_dir, os.environ)
    began = time.monotonic()
    started = broker.start()
    took = f"ready after {time.monotonic() - began:.1f} s" if started else "runs already"
    click.echo(f"Kafka {took} at {broker.bootstrap_servers} (log: {broker.log_file})")


@command.command()
@data_dir_option
def stop(data_dir: Path) -> None:
    """Stop the broker in order; its data stays.

    \b
    Example:
      aif broker stop
    """
    from cli.local_broker import LocalBroker

    stopped = LocalBroker(data_dir, os.environ).stop()
    click.echo("Kafka stopped" if stopped else "no local broker was running")


@command.command()
@data_dir_option
@click.pass_context
def status(ctx: click.Context, data_dir: Path) -> None:
    """Say whether the broker runs and answers; exit status 0 when it does, 3 when not.

    \b
    Example:
      aif broker status || aif broker start
    """
    from cli.local_broker import LocalBroker

    broker = LocalBroker(data_dir, os.environ)
    process = broker.process
    if process is None:
        click.echo("not running; start it with `aif broker start`")
        ctx.exit(3)
    answering = broker.answers(within_s=5.0)
    state = "running" if answering else "not answering"
    click.echo(f"{state} at {broker.bootstrap_servers} (pid {process.pid}, log: {broker.log_file})")
    ctx.exit(0 if answering else 3)


@command.command()
@data_dir_option
@click.option("--lines", default=40, show_default=True, type=click.IntRange(min=1), help="Newest lines to print")
@click.option("--follow", "-f", is_flag=True, help="Go on printing new lines until Ctrl-C")
def logs(data_dir: Path, lines: int, follow: bool) -> None:
    """Print the broker's newest log lines.

    \b
    Examples:
      aif broker logs --lines 100
      aif broker logs --follow
    """
    from cli.local_broker import LocalBroker

    broker = LocalBroker(data_dir, os.environ)
    end = broker.log_file.stat().st_size if broker.log_file.exists() else 0
    for line in broker.last_lines(lines):
        click.echo(line)
    if follow:
        for text in _new_text(broker.log_file, end):
            click.echo(text, nl=False)


def _new_text(path: Path, end: int) -> Iterator[str]:
    """What is appended to a file after byte `end`, for ever; a file that got shorter was rotated: from its start."""
    while True:
        size = path.stat().st_size if path.exists() else 0
        start = end if size >= end else 0
        if size > start:
            with path.open("rb") as stream:
                stream.seek(start)
                appended = stream.read()
            yield appended.decode(errors="replace")
            start += len(appended)
        end = start
        time.sleep(0.2)
