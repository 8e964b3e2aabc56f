"""Where candidates come from: the request itself, what is popular, or what is near to what the user did lately.

A retriever never waits for the user phase: nearest neighbours are asked for by the item vectors of the newest
behaviours, which the user's row names, or by the mean vector that the user's last state kept.

*Popular* is what the live model would give to somebody of whom it knows nothing: the items of the highest score for the
state of a user without a row. Item vectors carry the item's activity, so this follows what users do, and it needs
nothing that serving does not hold. Both kinds answer from the version that the request is pinned to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from domain.n2o import Flag
from domain.user_row import behaviours_of
from schemas.errors import BadInput, Unavailable
from schemas.records import UserHead
from serving.ranking.neighbours import Approximate, Base, Exact, ItemIndex
from serving.rollout.versions import Version

__all__ = [
    "KINDS",
    "Catalogue",
    "Given",
    "Nearest",
    "Popular",
    "Retriever",
    "Shelf",
    "Wanted",
    "catalogue_of",
    "retrievers_of",
    "rows_of",
]

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

#: Newest behaviours whose items' vectors are asked by; more would cost a search each.
_QUERIES: Final = 8
_AT_A_TIME: Final = 8192
#: What a server may keep to retrieve from: nothing, popular items, or these and an index of vectors.
KINDS: Final = ("none", "popular", "exact", "approximate")
#: Most items that popularity keeps; as many as a request may have.
MOST_POPULAR: Final = 10_000


@dataclass(frozen=True)
class Wanted:
    """What a retriever may know: the request's version, the user's row, his last mean vector, and how many items."""

    version: Version
    head: UserHead | None
    taste: Floats | None  #: [d] of the user's last cached state of this version
    count: int


class Retriever(Protocol):
    """A source of candidates: one that asks over a network awaits, one that searches does so in a thread."""

    async def candidates(self, wanted: Wanted) -> Ids:
        """Distinct item ids ([<= count] int64), best first."""


@dataclass(frozen=True)
class Given:
    """The candidates of the request."""

    ids: Ids

    async def candidates(self, wanted: Wanted) -> Ids:
        """The first of them."""
        return self.ids[: wanted.count]


class Shelf:
    """What can be retrieved of one version."""

    def __init__(self, version: Version, index: ItemIndex | None) -> None:
        self.version = version
        self.index = index
        self.popular: Ids = np.zeros(0, dtype=np.int64)
        self.sweeps = 0


class Catalogue:
    """Shelves of the versions in use. One thread keeps them, any number read."""

    def __init__(
        self,
        rows: Callable[[Version], Iterator[npt.NDArray[Any]]],
        score: Callable[[Version, npt.NDArray[Any]], Floats],
        new_index: Callable[[Version], ItemIndex] | None,
    ) -> None:
        """`rows` reads all records of a version in chunks; `score` scores records for a user without a row;
        `new_index` makes an empty index, None leaves nearest neighbours out."""
        self._rows = rows
        self._score = score
        self._new_index = new_index
        self._shelves: dict[int, Shelf] = {}  #: by version tag

    @property
    def has_index(self) -> bool:
        """Whether nearest neighbours can be asked for."""
        return self._new_index is not None

    def refresh(self, versions: list[Version]) -> None:
        """Make the shelves of these versions as of now, and drop all others."""
        for version in versions:
            shelf = self._shelves.get(version.slab.tag)
            if shelf is None:
                shelf = Shelf(version, self._new_index(version) if self._new_index else None)
            if shelf.index is not None:
                shelf.index.refresh(lambda version=version: self._rows(version))  # type: ignore[misc]
            shelf.popular = self._popular(version)
            shelf.sweeps += 1
            self._shelves = {**self._shelves, version.slab.tag: shelf}  # replaced whole: readers hold no lock
        in_use = {version.slab.tag for version in versions}
        self._shelves = {tag: shelf for tag, shelf in self._shelves.items() if tag in in_use}

    def shelf(self, version: Version) -> Shelf:
        """Raises Unavailable while the version's shelf has not been made."""
        shelf = self._shelves.get(version.slab.tag)
        if shelf is None:
            raise Unavailable(f"candidates of version {version.name} are still being indexed: send candidates, or wait")
        return shelf

    def _popular(self, version: Version) -> Ids:
        ids, scores = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        for records in self._rows(version):
            servable = records[records["flags"] & Flag.DELETED == 0]
            ids = np.concatenate((ids, servable["item_id"]))
            scores = np.concatenate((scores, self._score(version, servable)))
            if len(ids) > 2 * MOST_POPULAR:
                best = np.argpartition(-scores, MOST_POPULAR)[:MOST_POPULAR]
                ids, scores = ids[best], scores[best]
        # Of equal scores the lower id, as in every answer.
        return ids[np.lexsort((ids, -scores))][:MOST_POPULAR]


def catalogue_of(kind: str, score: Callable[[Version, npt.NDArray[Any]], Floats]) -> Catalogue:
    """The catalogue of a kind of KINDS but `none`."""
    bases: dict[str, Callable[[Version], Base]] = {
        "exact": lambda version: Exact(),
        "approximate": lambda version: Approximate(version.layout.vector_dim),
    }
    if kind == "popular":
        return Catalogue(rows_of, score, None)
    return Catalogue(rows_of, score, lambda version: ItemIndex(version.layout, lambda: bases[kind](version)))


def retrievers_of(catalogue: Catalogue | None) -> dict[str, Retriever]:
    """What a request may ask for."""
    if catalogue is None:
        return {}
    popular: dict[str, Retriever] = {"popular": Popular(catalogue)}
    return {**popular, "nearest": Nearest(catalogue)} if catalogue.has_index else popular


@dataclass(frozen=True)
class Popular:
    """What scores highest for somebody unknown."""

    catalogue: Catalogue

    async def candidates(self, wanted: Wanted) -> Ids:
        """The same for everybody, as of the last sweep."""
        return self.catalogue.shelf(wanted.version).popular[: wanted.count]


@dataclass(frozen=True)
class Nearest:
    """What is near to the items of the user's newest behaviours; popular items where nothing is known of him."""

    catalogue: Catalogue

    async def candidates(self, wanted: Wanted) -> Ids:
        """Nearest first, then popular ones where the index holds too few."""
        shelf = self.catalogue.shelf(wanted.version)
        if shelf.index is None:
            raise BadInput("this server keeps no index of vectors: start it with one, or send candidates")
        near = await asyncio.to_thread(_near, shelf.index, wanted)
        if len(near) == wanted.count:
            return near
        more = shelf.popular[~np.isin(shelf.popular, near)]
        return np.concatenate((near, more))[: wanted.count]


def rows_of(version: Version) -> Iterator[npt.NDArray[Any]]:
    """All records of a version, some thousands at a time: what a catalogue reads."""
    ids, stride = version.slab.ids(), version.layout.stride
    for start in range(0, len(ids), _AT_A_TIME):
        some = ids[start : start + _AT_A_TIME]
        raw = np.empty((len(some), stride), dtype=np.uint8)
        known = version.slab.gather(some, raw)
        yield raw[known].view(version.layout.dtype)[:, 0]


def _near(index: ItemIndex, wanted: Wanted) -> Ids:
    return index.search(queries_of(wanted), wanted.count)


def queries_of(wanted: Wanted) -> Floats:
    """Vectors to look around ([<= 8, d]): those of the newest behaviours' items, else the user's last mean vector."""
    version = wanted.version
    ids = behaviours_of(wanted.head)["item_id"][::-1]
    _, first = np.unique(ids, return_index=True)
    newest = ids[np.sort(first)][:_QUERIES]
    raw = np.empty((len(newest), version.layout.stride), dtype=np.uint8)
    known = version.slab.gather(newest, raw)
    found = version.layout.vectors(raw.view(version.layout.dtype)[:, 0][known])
    if len(found) or wanted.taste is None:
        return found
    return wanted.taste[None]
