"""A worker's folder: one process at a time, one deployment for ever."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Final

from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable

__all__ = ["claim"]

#: Of what the stores hold; a change that old stores would be misread by raises it.
_TABLE_FORMAT: Final = 1
_DESCRIPTION: Final = "worker.json"


def claim(folder: Path, deployment: Deployment) -> int:
    """Take the folder for this process; returns the descriptor of the lock, to be kept open.

    Raises Unavailable where another process has it, BadInput where its tables are of another group, partition count or
    table format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Unavailable(
            f"{folder} is in use by another worker: give each worker of this host its own --name"
        ) from error
    ours = {
        "table_format": _TABLE_FORMAT,
        "group": deployment.group,
        "partitions": deployment.partitions,
        "signature_version": deployment.signature_version,
    }
    description = folder / _DESCRIPTION
    if not description.exists():
        description.write_text(json.dumps(ours, indent=1) + "\n")
        return lock
    theirs = json.loads(description.read_text())
    for name, value in ours.items():
        if theirs.get(name) != value:
            os.close(lock)
            raise BadInput(
                f"the tables in {folder} are of {name} {theirs.get(name)!r}, this worker is of {value!r}: use the "
                "settings they were made with, or another folder (--name, AIF_DATA_DIR)"
            )
    return lock
