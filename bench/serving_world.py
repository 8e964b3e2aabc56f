"""What every measurement of serving reads: a catalogue and a few users, as files that each process maps.

serving_fill.py makes them, together with the artifact and the workers' tables of the same contents. Items are the rows
of all arrays, their ids ascending. Users have as many behaviours as the figures ask for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from domain.artifact import MANIFEST, Manifest
from domain.cross_features import cross_features
from domain.item_features import category_buckets
from domain.n2o import Flag
from domain.sequence import SEQUENCE
from domain.user_features import UserInputs, user_inputs
from schemas.codec import codec
from schemas.errors import BadInput
from schemas.records import UserHead

__all__ = ["TOP_K", "Sizes", "World", "WorldUser", "keep_user", "shape_key", "user_id"]

#: What a ranking returns, whatever it scored.
TOP_K: Final = 500

_CHECKED: Final = 1_000
_DESCRIPTION: Final = "world.json"
_ARRAYS: Final = ("records", "embedding", "category", "numeric")


@dataclass(frozen=True)
class Sizes:
    """How large everything is that is measured; tests take less."""

    items: int = 1_000_000
    candidates: tuple[int, ...] = (1_000, 4_000, 10_000)
    behaviours: tuple[int, ...] = (256, 1_024, SEQUENCE)
    users: int = 64  #: with the second of these numbers of behaviours, in turn in requests over HTTP
    rounds: int = 5
    enough_s: float = 0.3  #: of calls in each round, for each figure in process
    load_s: float = 3.0  #: of load in each round, for each figure over HTTP
    compiled: bool = True  #: whether the rival in torch is compiled, which takes it some ten seconds for each shape

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(candidates, behaviours) of every figure in process."""
        return [(count, length) for length in self.behaviours for count in self.candidates]

    @property
    def main_shape(self) -> tuple[int, int]:
        """The one that ratios, the user phase and the figures over HTTP are of: the second of either."""
        return self.candidates[1], self.behaviours[1]


def shape_key(candidates: int, behaviours: int) -> str:
    """How a figure's shape is written: "4000x1024"."""
    return f"{candidates}x{behaviours}"


def user_id(behaviours: int, number: int = 0) -> int:
    """Id of one of the users with so many behaviours."""
    return 1_000 * behaviours + number


@dataclass(frozen=True)
class WorldUser:
    """A user with all that the user phase reads, as arrays of one user, and the rows of the behaviours' items."""

    user_id: int
    inputs: UserInputs
    rows: npt.NDArray[np.int64]  #: [L] of the items, newest first
    categories: npt.NDArray[np.int64]  #: [1, K] top buckets
    cross: npt.NDArray[np.float32]  #: [1, K, X]


def keep_user(folder: Path, behaviours: int, head: bytes, sequence: npt.NDArray[Any]) -> None:
    """Keep a user's encoded head and behaviours, newest first ([L] BEHAVIOUR_DTYPE), for `World.user`."""
    (folder / f"head-{behaviours}.bin").write_bytes(head)
    np.save(folder / f"behaviours-{behaviours}.npy", sequence)


@dataclass(frozen=True)
class World:
    """The files below a folder; arrays are mapped, so that opening costs nothing."""

    folder: Path
    items: int
    version: str
    at_ms: int  #: time of all requests: the newest event's
    behaviours: Sequence[int]  #: lengths of the users' histories
    users: int  #: with the second of these lengths; of each other there is one

    @classmethod
    def open(cls, folder: Path) -> World:
        """Raises BadInput where the folder holds no such files."""
        described = folder / _DESCRIPTION
        if not described.is_file():
            raise BadInput(f"{folder} holds nothing that `aif bench serving` has filled: choose another --folder")
        return cls(folder, **json.loads(described.read_text()))

    @classmethod
    def write(cls, folder: Path, arrays: dict[str, npt.NDArray[Any]], **described: Any) -> World:
        """Keep `records`, `embedding`, `category` and `numeric` by name; `described` are the other fields. They come
        last: with them all is whole."""
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", arrays[name])
        (folder / _DESCRIPTION).write_text(json.dumps({"items": len(arrays["records"]), **described}))
        return cls.open(folder)

    @property
    def data_dir(self) -> Path:
        """The data folder of a server: artifacts and tables."""
        return self.folder / "data"

    @property
    def artifact(self) -> Path:
        """The model's folder."""
        return self.data_dir / "artifacts" / self.version

    @cached_property
    def manifest(self) -> Manifest:
        """What the artifact says of itself."""
        return Manifest.from_json((self.artifact / MANIFEST).read_bytes())

    def array(self, name: str) -> npt.NDArray[Any]:
        """`records` [I] of the layout's dtype, `embedding` [I, e], `category` [I], `numeric` [I, q]; read-only."""
        return cast("npt.NDArray[Any]", np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    @property
    def rows(self) -> npt.NDArray[np.uint8]:
        """The records as bytes ([I, stride]); numpy copies no padding where it takes some of a structured array."""
        records = self.array("records")
        return records.view(np.uint8).reshape(len(records), -1)

    @cached_property
    def item_ids(self) -> npt.NDArray[np.int64]:
        """[I] ascending."""
        return np.array(self.array("records")["item_id"])

    def candidates(self, count: int, seed: int) -> npt.NDArray[np.int64]:
        """Distinct rows of items in random order ([count] int64)."""
        random = np.random.default_rng(seed)
        return random.permutation(np.unique(random.integers(0, self.items, 2 * count)))[:count]

    @property
    def check_candidates(self) -> npt.NDArray[np.int64]:
        """Rows of the request whose scores all implementations are compared by ([n] int64)."""
        return self.candidates(min(_CHECKED, self.items // 2), seed=0)

    @property
    def check_behaviours(self) -> int:
        """Behaviours of that request's user."""
        return self.behaviours[1]

    def user(self, behaviours: int) -> WorldUser:
        """The first user with so many behaviours, at the time of all requests."""
        dims = self.manifest.dimensions
        head = cast(UserHead, codec("user_head").decode((self.folder / f"head-{behaviours}.bin").read_bytes()))
        sequence = np.load(self.folder / f"behaviours-{behaviours}.npy")
        inputs = user_inputs([head], [sequence], np.array([self.at_ms]), dims)
        rows = np.searchsorted(self.item_ids, inputs.item_ids[0])
        records = self.array("records")[rows]
        buckets = category_buckets(
            records["category_id"], records["flags"] & Flag.HAS_CATEGORY != 0, dims.category_buckets
        )
        top, cross = cross_features(
            buckets[None], inputs.actions, inputs.ages, inputs.present, dims.cross_categories
        )  # fmt: skip
        return WorldUser(user_id(behaviours), inputs, rows, top, cross)
