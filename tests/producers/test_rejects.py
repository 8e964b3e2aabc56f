from __future__ import annotations

import json
from pathlib import Path

import pytest

from producers.rejects import Rejects
from schemas.errors import BadInput, BadRecord, Unavailable

_PROBLEM = BadRecord("bad_id", "user is empty")


def test_rows_are_counted_and_written(tmp_path: Path) -> None:
    """Each bad row is one JSON line with file, line number and reason; a new pass starts the file anew."""
    path = tmp_path / "deep" / "rejects.jsonl"
    for _ in range(2):
        rejects = Rejects(path, strict=False)
        rejects.add("log.csv", 7, _PROBLEM, ("", "ü\udcff"))
        rejects.close()
    lines = path.read_text(errors="surrogateescape").splitlines()
    assert rejects.count == 1 and len(lines) == 1
    assert json.loads(lines[0]) == {
        "file": "log.csv", "line": 7, "reason": "bad_id", "detail": "user is empty", "row": ["", "ü\udcff"],
    }  # fmt: skip


def test_strict_stops_at_the_first() -> None:
    """Where strict, the first bad row ends the pass with its place."""
    with pytest.raises(BadInput, match=r"log\.csv line 7: bad_id"):
        Rejects(None, strict=True).add("log.csv", 7, _PROBLEM, "")


def test_an_unwritable_file_is_the_surroundings_fault(tmp_path: Path) -> None:
    """A rejects file that cannot be made is an Unavailable that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="rejects file"):
        Rejects(tmp_path / "file" / "rejects.jsonl", strict=False).add("log.csv", 7, _PROBLEM, "")
