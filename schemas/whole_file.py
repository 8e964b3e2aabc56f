"""Writing a file whole or not at all: whoever looks sees what was there before, or all of what is new."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from schemas.errors import BadInput

__all__ = ["write_whole"]


def write_whole(path: Path, write: Callable[[IO[bytes]], object], option: str) -> None:
    """Let `write` fill a file beside `path`, then put it in its place, safe on disk.

    Raises BadInput where that cannot be, naming the command's `option` that chooses another place.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):  # where it could not even be made
            unfinished.unlink()
        raise BadInput(f"{path} cannot be written: {error}; choose another file with {option}") from error
