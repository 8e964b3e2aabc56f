"""`aif artifact`: look at artifact folders, check them, and make them again of saved weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from cli.options import data_dir_option

__all__ = ["command"]

_folder = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def command() -> None:
    """Look at model artifacts, check them, and make them again of saved weights.

    \b
    Examples:
      aif artifact inspect .aif/artifacts/0123456789abcdef
      aif artifact check .aif/artifacts/0123456789abcdef
      aif artifact export weights.npz
    """


@command.command()
@click.argument("state", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of artifacts  [default: DATA_DIR/artifacts]"
)
@data_dir_option
def export(state: Path, out: Path | None, data_dir: Path) -> None:
    """Make an artifact of the weights that `aif train --state` wrote, with the torch and onnxruntime of this machine.

    With those of the training it is the same version; with newer ones it is how a model outlives an upgrade that can no
    longer read its programs. A model of another form than this build's is refused: train it again.

    \b
    Example:
      aif train --dataset online-retail-2 --state weights.npz
      aif artifact export weights.npz --out artifacts/
    """
    from models.export import export as write
    from models.state import load_state

    model, training = load_state(state)
    exported = write(model, training, out or data_dir / "artifacts")
    click.echo(f"{exported.manifest.version}  {exported.folder}")


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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object")
def check(folder: Path, as_json: bool) -> None:
    """Verify checksums and sizes, and run every part on this machine in two ways: as it is served, and slowly.

    Prints what runs each part here and the largest difference between the two, relative to the largest value.

    \b
    Examples:
      aif artifact check .aif/artifacts/0123456789abcdef
      aif artifact check .aif/artifacts/0123456789abcdef --json | jq '.targets[].difference'
    """
    from cli.artifact_check import targets
    from domain.artifact import check_artifact
    from models.export import run_parts

    # The folder's name is a version where nobody renamed it; a copy under another name still checks.
    manifest = check_artifact(lambda name: (folder / name).read_bytes())
    run_parts(folder, manifest)
    found = targets(folder, manifest)
    if as_json:
        click.echo(json.dumps({"version": manifest.version, "targets": [each._asdict() for each in found]}))
        return
    click.echo(f"{manifest.version} is complete: {', '.join(sorted(manifest.files))} match and run")
    for each in found:
        click.echo(f"{each.part:<16} {each.runs_on:<28} {each.difference:.1e} from {each.compared_with}")
