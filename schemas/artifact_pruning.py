"""Copies of artifacts that nobody needs any more are deleted from this machine (artifact_cache.py says what a copy is).

A copy goes where its version is gone and it was not asked for since an hour; where the version is unknown here, since
30 days. Who keeps versions says so every few minutes by the same note of use: so a copy that another worker, server or
deployment on this machine keeps is never old, whatever this one knows. Who asks for a copy notes that under the lock
that is held to delete it: either the note is seen, or the copy is gone before it is looked at, and is fetched again.

What was not fetched, an artifact that `aif train` wrote for one, is never deleted.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.artifact_cache import artifacts_folder, copy_note, locked_copy, note_use

__all__ = ["PRUNE_EVERY_S", "Pruned", "prune_copies"]

#: How often whoever keeps versions calls `prune_copies`.
PRUNE_EVERY_S: Final = 600.0
_GONE_UNUSED_S: Final = 3_600.0
_UNKNOWN_UNUSED_S: Final = 30 * 86_400.0


@dataclass(frozen=True)
class Pruned:
    """A copy that was deleted; as text, what to tell people."""

    version: str
    gone: bool  #: retired or rejected; otherwise nobody here knows it
    unused_s: float
    nbytes: int

    def __str__(self) -> str:
        why = "its version is gone" if self.gone else "its version is unknown here"
        return (
            f"the copy of model {self.version} is deleted ({self.nbytes / 1e6:.1f} MB): {why}, and it was not asked "
            f"for since {self.unused_s / 3600:.1f} h"
        )


def prune_copies(
    data_dir: Path, kept: Collection[str], gone: Collection[str], now_s: float | None = None
) -> list[Pruned]:
    """Note that the `kept` versions are needed, and delete the copies that nobody needs; those deleted.

    `gone` are versions that were retired or rejected; others are unknown. Blocks for as long as files take to delete.
    Raises OSError where the folder cannot be read or written.
    """
    folder, now_s = artifacts_folder(data_dir), time.time() if now_s is None else now_s
    for version in kept:
        note_use(folder / version)
    found = {path.name[1:].partition(".")[0] for kind in ("copy", "part") for path in folder.glob(f".*.{kind}")}
    tried = (_pruned(folder / version, version in gone, now_s) for version in sorted(found - set(kept)))
    return [each for each in tried if each is not None]


def _pruned(folder: Path, gone: bool, now_s: float) -> Pruned | None:
    """Delete one copy, unless somebody needed it lately, or has its lock now."""
    longest_s = _GONE_UNUSED_S if gone else _UNKNOWN_UNUSED_S
    if _unused_s(folder, now_s) < longest_s:
        return None
    with suppress(BlockingIOError), locked_copy(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
        if (unused_s := _unused_s(folder, now_s)) < longest_s:
            return None
        note, part = copy_note(folder), folder.with_name(f".{folder.name}.part")
        nbytes = sum(path.stat().st_size for each in (folder, part) for path in each.glob("*"))
        _clear(part)  # of a fetch that ended in the middle
        if note.exists():
            if folder.exists():
                folder.rename(part)  # at once: nobody finds half of it
            _clear(part)
            note.unlink()
        folder.with_name(f".{folder.name}.lock").unlink()
        return Pruned(folder.name, gone, unused_s, nbytes)
    return None


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _unused_s(folder: Path, now_s: float) -> float:
    """Seconds since somebody asked for a copy, or began to fetch one; -1 where there is none any more."""
    for path in (copy_note(folder), folder.with_name(f".{folder.name}.part")):
        with suppress(FileNotFoundError):
            return now_s - path.stat().st_mtime
    return -1.0
