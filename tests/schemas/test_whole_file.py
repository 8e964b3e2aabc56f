from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from schemas.errors import BadInput
from schemas.whole_file import write_whole


def test_what_cannot_be_finished_changes_nothing(tmp_path: Path) -> None:
    """An error in the middle leaves the file as it was, and nothing beside it; the message names the option."""
    path = tmp_path / "kept"
    write_whole(path, lambda file: file.write(b"old"), "--out")

    def failing(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(BadInput, match="disk full; choose another file with --out"):
        write_whole(path, failing, "--out")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Where not even the unfinished file can be made, the message still names the path."""
    with pytest.raises(BadInput, match="nowhere"):
        write_whole(tmp_path / "nowhere" / "file", lambda file: file.write(b"x"), "--state")
