"""The `aif` command: a table of sub-commands, loaded when called, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import logging
from typing import Any, Final

import click

from schemas.errors import AifError, exit_status

__all__ = ["COMMANDS", "main"]

#: Sub-command -> where its click command lives. A module is imported only when its command or its help is asked for.
COMMANDS: Final[dict[str, str]] = {
    "demo": "cli.demo:command",
    "broker": "cli.broker:command",
    "topics": "cli.topics:command",
    "train": "cli.train:command",
    "evaluate": "cli.evaluate:command",
    "experiment": "cli.experiment:command",
    "artifact": "cli.artifact:command",
    "model": "cli.model:command",
    "worker": "cli.worker:command",
    "replay": "cli.replay:command",
    "serve": "cli.serve:command",
    "edge": "cli.edge:command",
    "why": "cli.why:command",
    "lag": "cli.lag:command",
    "tables": "cli.tables:command",
    "verify": "cli.verify:command",
    "features": "cli.features:command",
    "dead-letters": "cli.dead_letters:command",
    "bench": "cli.bench:command",
}


class _LazyGroup(click.Group):
    """Finds commands in COMMANDS, in that order, and prints an AifError as one line instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AifError as error:
            click.echo(f"aif: {error}", err=True)
            ctx.exit(exit_status(error))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="aif-nearline", prog_name="aif")
def main() -> None:
    """AIF Nearline: item vectors and user features kept fresh from Kafka, candidates scored in milliseconds.

    \b
    Examples:
      aif demo                        everything on this machine, with a bundled log
    aif broker start                Apache Kafka as one local process
      aif COMMAND --help              what a command does, with examples
    """
    # A broker that does not answer reaches the user as an Unavailable with its address; the client's own log of each
    # attempt to connect would only bury it.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
