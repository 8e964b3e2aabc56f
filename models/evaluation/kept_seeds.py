"""Finished seeds of a contest that is not over: kept on disk, so that a run that was stopped goes on where it was.

A seed is independent of all others: with the same log, sizes and options, on the same code and machine, its results are
equal bit for bit, whether they were kept or made again. Each file says what it was made of; one that was made of
anything else is not used. Of the code that is all of `models`, `domain` and `schemas`: some of it matters to no result,
and a seed trained once more costs less than one that was wrongly believed.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from schemas.errors import BadInput
from schemas.whole_file import write_whole

__all__ = ["KeptSeeds", "SeedResults"]

#: By model, then by name: what `contest` measured with one seed.
SeedResults = Mapping[str, Mapping[str, npt.NDArray[Any]]]

_CODE: Final = tuple(Path(__file__).resolve().parents[2] / package for package in ("models", "domain", "schemas"))
_ABOUT: Final = "about"


@dataclass(frozen=True)
class KeptSeeds:
    """The finished seeds of one contest, a file each."""

    folder: Path
    made_of: str  #: JSON: everything that results of a seed follow from, besides the seed

    @classmethod
    def of(cls, folder: Path, data: tuple[object, ...], settings: Mapping[str, object]) -> KeptSeeds:
        """For a contest on `data` (dataclasses of arrays, arrays, None) with settings that JSON can hold.

        Raises BadInput where the folder cannot be made.
        """
        made_of = {
            **settings, "data": _digest(data), "code": _code(), "torch": torch.__version__, "numpy": np.__version__,
            "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        }  # fmt: skip
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder} cannot be made: {error}; choose another folder with --out") from error
        return cls(folder, json.dumps(made_of, sort_keys=True))

    def find(self, seed: int) -> tuple[SeedResults, float] | None:
        """A seed's results and the seconds that they took; None where none are kept, or not of the same."""
        try:
            with np.load(self._file(seed), allow_pickle=False) as stored:
                about = json.loads(stored[_ABOUT].tobytes())
                if about["made_of"] != self.made_of:
                    return None
                found: dict[str, dict[str, npt.NDArray[Any]]] = {}
                for name in stored.files:
                    model, _, what = name.partition("/")
                    if what:
                        found.setdefault(model, {})[what] = stored[name]
                return found, float(about["seconds"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):  # not there, or damaged
            return None

    def keep(self, seed: int, results: SeedResults, seconds: float) -> None:
        """Write a seed's results. Raises BadInput where the file cannot be written."""
        about = json.dumps({"made_of": self.made_of, "seconds": seconds}).encode()
        arrays: dict[str, Any] = {
            f"{model}/{what}": value for model, each in results.items() for what, value in each.items()
        }
        arrays[_ABOUT] = np.frombuffer(about, dtype=np.uint8)
        write_whole(self._file(seed), lambda file: np.savez(file, **arrays), "--out")

    def _file(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}.npz"


def _digest(data: tuple[object, ...]) -> str:
    digest = hashlib.sha256()
    waiting = list(data)
    while waiting:
        part = waiting.pop()
        if is_dataclass(part):
            waiting += [getattr(part, each.name) for each in fields(part)]
        elif part is None:
            digest.update(b"none")
        else:
            array = np.ascontiguousarray(part)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _code() -> str:
    digest = hashlib.sha256()
    for package in _CODE:
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
