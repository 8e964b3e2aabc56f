"""Rows that cannot be mapped: counted by reason, written down with their line number, fatal where strict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from schemas.errors import BadInput, BadRecord, Unavailable

__all__ = ["Rejects"]


class Rejects:
    """Takes bad rows of one pass over a data set.

    The file (JSON Lines: file, line, reason, detail, row) is made with the first bad row, anew for each pass.
    """

    def __init__(self, path: Path | None, *, strict: bool) -> None:
        self.path = path
        self.strict = strict
        self.by_reason: Counter[str] = Counter()
        self._out: TextIO | None = None
        if path is not None and path.exists():
            self._writable(path.unlink)

    def add(self, file: str, line: int, problem: BadRecord, row: Sequence[str] | str) -> None:
        """Count and write one row. Raises BadInput where strict, Unavailable where the file cannot be written."""
        if self.strict:
            raise BadInput(f"{file} line {line}: {problem} (strict: stopped at the first bad row)")
        self.by_reason[problem.reason] += 1
        if self.path is None:
            return
        entry = {"file": file, "line": line, "reason": problem.reason, "detail": problem.detail, "row": row}
        self._writable(lambda: self._write(entry))

    def _write(self, entry: dict[str, object]) -> None:
        assert self.path is not None
        if self._out is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Open for the whole pass; closed by close().
            self._out = self.path.open("w", encoding="utf-8", errors="surrogateescape")
        self._out.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def _writable(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            raise Unavailable(f"rejects file {self.path} cannot be written: {error.strerror}") from error

    @property
    def count(self) -> int:
        """Bad rows so far."""
        return self.by_reason.total()

    def close(self) -> None:
        """Close the file, if one was made."""
        if self._out is not None:
            self._out.close()
            self._out = None
