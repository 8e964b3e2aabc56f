"""Where a replay got to, on disk, so that it can go on from there.

A position counts entries of the data set's stream that the broker has acknowledged; it means something only for the
same stream into the same topics, so what makes them the same stands beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from producers.datasets import Dataset
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable

__all__ = ["Checkpoint", "checkpoint_path", "load_checkpoint", "save_checkpoint", "stream_identity"]


@dataclass
class Checkpoint:
    """`entries` acknowledged of the stream that `identity` names; `shift_ms` was added to every event time.

    `offsets` is the last acknowledged offset by topic and partition (as text, for JSON).
    """

    identity: Mapping[str, str | int | None]
    shift_ms: int
    entries: int = 0
    events: int = 0
    items: int = 0
    complete: bool = False
    offsets: dict[str, dict[str, int]] = field(default_factory=dict)


def stream_identity(dataset: Dataset, topic_ids: Mapping[str, str]) -> dict[str, str | int | None]:
    """What must be equal for a position to mean the same: mapping, file, selection, and the topics themselves."""
    return {
        "mapping_sha256": dataset.mapping.sha256,
        "events_file": dataset.events_file.name,
        "events_file_bytes": dataset.events_file.stat().st_size,
        "limit": dataset.limit,
        "from_ms": dataset.from_ms,
        "to_ms": dataset.to_ms,
        "embedding_dim": dataset.embedding_dim,
        **{f"topic_id {name}": topic_id for name, topic_id in topic_ids.items()},
    }


def checkpoint_path(deployment: Deployment, dataset: Dataset) -> Path:
    """One file per deployment prefix and data set."""
    return deployment.data_dir / "replay" / f"{deployment.prefix}{dataset.mapping.name}.json"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file in one step. Raises Unavailable where the disk refuses."""
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(asdict(checkpoint), indent=1) + "\n")
        os.replace(fresh, path)
    except OSError as error:
        raise Unavailable(f"replay position {path} cannot be written: {error.strerror}") from error


def load_checkpoint(path: Path, identity: Mapping[str, str | int | None]) -> Checkpoint | None:
    """The position to go on from, None where there is none. Raises BadInput where it is of another stream."""
    try:
        found = Checkpoint(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise BadInput(f"replay position {path} is damaged ({error}): start again without --resume") from error
    for key, value in identity.items():
        if found.identity.get(key) != value:
            raise BadInput(
                f"cannot resume: {key} was {found.identity.get(key)!r} and is {value!r} now; "
                "use the options of the interrupted run, or start again without --resume"
            )
    return found
