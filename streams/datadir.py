"""A worker's folder: one process at a time, one deployment for ever."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Final

from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.stores_on_disk import WORKER_FILE, worker_description

__all__ = ["claim"]

#: Of what the stores hold; a change that old stores would be misread by raises it.
_TABLE_FORMAT: Final = 1


def claim(folder: Path, deployment: Deployment) -> int:
    """Take the folder for this process; returns the descriptor of the lock, to be kept open.

    Raises Unavailable where another process has it, BadInput where its tables are of another group, partition count or
    table format, Corrupt where it does not say what they are of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(lock, folder)
        _describe(folder, deployment)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Unavailable(
            f"{folder} is in use by another worker: give each worker of this host its own --name"
        ) from error


def _describe(folder: Path, deployment: Deployment) -> None:
    """Write what the folder's tables are of, or check that it says the same."""
    ours = {
        "table_format": _TABLE_FORMAT,
        "group": deployment.group,
        "partitions": deployment.partitions,
        "signature_version": deployment.signature_version,
    }
    if not (folder / WORKER_FILE).exists():
        _write_whole(folder / WORKER_FILE, ours)
        return
    theirs = worker_description(folder)
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise BadInput(
                f"the tables in {folder} are of {name} {theirs.get(name)!r}, this worker is of {value!r}: use the "
                "settings they were made with, or another folder (--name, AIF_DATA_DIR)"
            )


def _write_whole(path: Path, description: dict[str, Any]) -> None:
    """Make the file appear with all of its contents or not at all, also across a power cut."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w") as file:
        file.write(json.dumps(description, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
