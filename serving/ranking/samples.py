"""Answers that are kept, a share of all: enough of each that its scores can be made again from the logs (`aif why`).

A sample names what it was made from, it does not hold it: the model version, the user and the candidates, the time, and
how far each changelog had been applied. It holds what came out. The newest are in memory, bounded in number and bytes;
where a folder is given, all go to a file of JSON lines there, which is put aside at its bound and replaces the one put
aside before.
"""

from __future__ import annotations

import fcntl
import logging
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from serving.ranking.answers import Answer
from serving.tables.store import TablePartition

__all__ = ["SAMPLES_FILE", "SAMPLES_FOLDER", "Applied", "Samples"]

#: Below the data directory.
SAMPLES_FOLDER: Final = "answers"
SAMPLES_FILE: Final = "answers.jsonl"
_ASIDE: Final = "answers.1.jsonl"
_MOST_SAMPLES: Final = 1000
_MOST_BYTES: Final = 64 << 20
_MOST_FILE_BYTES: Final = 128 << 20
_MOST_LISTED: Final = 100

#: The next changelog offset to apply, by partition.
Applied = Mapping[TablePartition, int]

_log = logging.getLogger(__name__)


class Samples:
    """Kept answers. Any thread may call it."""

    def __init__(
        self,
        share: float = 0.0,
        folder: Path | None = None,
        most_bytes: int = _MOST_BYTES,
        most_file_bytes: int = _MOST_FILE_BYTES,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`share` of the answers is kept, 0 to 1."""
        self.share = share
        self.lost = 0  #: samples that the file did not take
        self._folder = folder
        self._most_bytes = most_bytes
        self._most_file_bytes = most_file_bytes
        self._wall_s = wall_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._random = random.Random()

    def __len__(self) -> int:
        return len(self._kept)

    def wanted(self) -> bool:
        """Whether the next answer is to be kept."""
        return self.share > 0 and self._random.random() < self.share

    def keep(self, answer: Answer, applied: Applied) -> int:
        """Keep an answer that was made while the changelogs stood at `applied`; the sample's id, never 0."""
        sample_id = secrets.randbits(64) or 1  # not `_random`, which forked processes have in the same state
        line = orjson.dumps(self._described(sample_id, answer, applied), option=orjson.OPT_SERIALIZE_NUMPY)
        with self._lock:
            self._kept[sample_id] = line
            self._bytes += len(line)
            while len(self._kept) > 1 and (len(self._kept) > _MOST_SAMPLES or self._bytes > self._most_bytes):
                self._bytes -= len(self._kept.popitem(last=False)[1])
            self._write(line)
        return sample_id

    def get(self, sample_id: int) -> dict[str, Any] | None:
        """A sample that is still in memory."""
        line = self._kept.get(sample_id)
        if line is None:
            return None
        sample: dict[str, Any] = orjson.loads(line)
        return sample

    def newest(self) -> list[dict[str, Any]]:
        """What the newest samples are of, newest first; `get` has all of each."""
        with self._lock:
            lines = list(self._kept.values())[-_MOST_LISTED:]
        listed = []
        for line in reversed(lines):
            sample = orjson.loads(line)
            shown = {name: sample[name] for name in ("sample_id", "taken_ms", "model_version", "user_id", "at_ms")}
            listed.append({**shown, "candidates": len(sample["candidates"])})
        return listed

    def _described(self, sample_id: int, answer: Answer, applied: Applied) -> dict[str, Any]:
        tables: dict[str, dict[str, int]] = {}
        for at, offset in sorted(applied.items()):
            tables.setdefault(at.table, {})[str(at.partition)] = offset
        ranked = answer.ranked
        return {
            "sample_id": f"{sample_id:016x}",
            "taken_ms": int(self._wall_s() * 1000),
            "model_version": answer.model_version,
            "user_id": answer.request.user_id,
            "user_known": answer.user_known,
            "at_ms": answer.at_ms,
            "applied": tables,
            "behaviours_used": ranked.behaviours_used,
            "behaviours_missing": ranked.behaviours_missing,
            "candidates": answer.merged.candidates,
            "scores": ranked.scores,
            "known": ranked.known,
            "ranking": answer.request.candidate_ids[answer.order],
        }

    def _write(self, line: bytes) -> None:
        """Append to the file; a disk that takes nothing is said once and costs no request anything."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # scoring processes of a host may share the folder
                path = self._folder / SAMPLES_FILE
                if path.exists() and path.stat().st_size + len(line) > self._most_file_bytes:
                    path.replace(self._folder / _ASIDE)
                with path.open("ab") as file:
                    file.write(line + b"\n")
        except OSError as error:
            if not self.lost:
                _log.warning("samples cannot be written to %s: %s; they stay in memory only", self._folder, error)
            self.lost += 1
