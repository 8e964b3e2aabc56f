"""`aif artifact`: look at artifact folders and check them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

__all__ = ["command"]

_folder = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def command() -> None:
    """Look at model artifacts and check them.

    \b
    Examples:
      aif artifact inspect .aif/artifacts/0123456789abcdef
      aif artifact check .aif/artifacts/0123456789abcdef
    """


@command.command()
@_folder
@click.option("--json", "as_json", is_flag=True, help="Print the manifest with its version as one JSON object")
def inspect(folder: Path, as_json: bool) -> None:
    """Print what an artifact says of itself: version, sizes, files, training.

    \b
    Example:
      aif artifact inspect .aif/artifacts/0123456789abcdef --json
    """
    from domain.artifact import check_artifact

    manifest = check_artifact(lambda name: (folder / name).read_bytes())
    content = {"version": manifest.version, **asdict(manifest)}
    if as_json:
        click.echo(json.dumps(content, sort_keys=True))
        return
    for name, value in content.items():
        if not isinstance(value, dict):
            click.echo(f"{name:<20} {value}")
            continue
        click.echo(name)
        for key, each in value.items():
            click.echo(f"  {key:<18} {each}")


@command.command()
@_folder
def check(folder: Path) -> None:
    """Verify checksums and sizes, load the item tower and the user phase, and run both once.

    \b
    Example:
      aif artifact check .aif/artifacts/0123456789abcdef
    """
    from domain.artifact import check_artifact
    from models.export import run_parts

    # The folder's name is a version where nobody renamed it; a copy under another name still checks.
    manifest = check_artifact(lambda name: (folder / name).read_bytes())
    run_parts(folder, manifest)
    click.echo(f"{manifest.version} is complete: {', '.join(sorted(manifest.files))} match and run")
