"""Items by the direction of their vectors, in one model version: exact search, approximate search, and an index of one
of them that follows its rows.

An index is a *base*, which never changes once built, and a *delta*: items that changed, came or went since. A sweep
over the version's rows finds these by the rows' stamps; their new vectors are searched exactly beside the base, whose
own entry for them no longer counts. When the delta outgrows `_REBUILT_SHARE` of the base, the next base is built
beside the one that answers. Readers see one snapshot (base and delta together) for a whole search and wait for nobody.

Memory, for n rows of d values: exact 4 n d bytes; approximate about 2 n d + 450 n (usearch, bfloat16, connectivity 16);
ids and stamps 33 n; the delta 4 d a changed row, a tenth of the rows between rebuilds; while a base is rebuilt, both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime  # noqa: F401 - before usearch: loaded behind it, onnxruntime 1.32 crashes the process
from usearch.index import Index

from domain.n2o import Flag, N2OLayout

__all__ = ["Approximate", "Base", "Exact", "ItemIndex"]

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]
_Stamps = npt.NDArray[np.uint64]

_CONNECTIVITY: Final = 16
_EXPANSION_ADD: Final = 64
_EXPANSION_SEARCH: Final = 64
_ADDED_AT_ONCE: Final = 4096  #: rows between two moments at which other threads of the process get the processor
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
#: A delta of more rows than this share of the base, and than `_REBUILT_ROWS`, is built into the next base.
_REBUILT_SHARE: Final = 0.1
_REBUILT_ROWS: Final = 1000


class Base(Protocol):
    """Unit vectors by position. Added to by one thread, then searched by any."""

    def add(self, vectors: _Floats) -> None:
        """Give the next positions these vectors ([n, d])."""

    def search(self, queries: _Floats, count: int) -> tuple[_Ints, _Floats]:
        """Some `count` positions near any of the queries ([q, d] unit vectors) and their similarities, in any order.

        A position may come once for each query.
        """


class Exact:
    """Every vector, compared with every query: the oracle, and the right choice up to some 100,000 items."""

    def __init__(self) -> None:
        self._blocks: list[_Floats] = []

    def add(self, vectors: _Floats) -> None:
        """See Base."""
        self._blocks.append(np.ascontiguousarray(vectors))

    def search(self, queries: _Floats, count: int) -> tuple[_Ints, _Floats]:
        """The `count` positions of the highest similarity to their nearest query."""
        found, similarities = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
        start = 0
        for block in self._blocks:
            nearest = (block @ queries.T).max(axis=1)
            chosen = _best(nearest, count)
            found.append(chosen + start)
            similarities.append(nearest[chosen])
            start += len(block)
        return np.concatenate(found), np.concatenate(similarities)


class Approximate:
    """A usearch graph (HNSW): some misses, and a time that hardly grows with the number of items."""

    def __init__(self, vector_dim: int) -> None:
        self._index = Index(
            ndim=vector_dim,
            metric="cos",
            dtype="bf16",
            connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION_ADD,
            expansion_search=_EXPANSION_SEARCH,
        )

    def add(self, vectors: _Floats) -> None:
        """See Base."""
        start = len(self._index)
        for first in range(0, len(vectors), _ADDED_AT_ONCE):
            part = vectors[first : first + _ADDED_AT_ONCE]
            self._index.add(np.arange(start + first, start + first + len(part), dtype=np.uint64), part, threads=1)

    def search(self, queries: _Floats, count: int) -> tuple[_Ints, _Floats]:
        """Each query's share of `count` positions, and half as many again for those that queries have in common."""
        each = min(len(self._index), -(-3 * count // (2 * len(queries))))
        if not each:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        matches: Any = self._index.search(queries, each, threads=1)
        keys, distances = matches.keys, matches.distances
        if len(queries) > 1:  # of one query usearch gives plain arrays of what it found
            found = np.arange(each) < matches.counts[:, None]
            keys, distances = keys[found], distances[found]
        return keys.astype(np.int64), (1 - distances).astype(np.float32)


@dataclass(frozen=True)
class _Snapshot:
    base: Base
    ids: _Ints  #: [n] by position
    stamps: _Stamps  #: [n] by position
    sorted_ids: _Ints  #: [n]
    position_of: _Ints  #: [n] of each sorted id
    stale: npt.NDArray[np.bool_]  #: [n] changed or gone since
    delta_ids: _Ints  #: changed or come since
    delta: Exact

    def positions(self, ids: _Ints) -> _Ints:
        """Positions of ids in the base, -1 for those that it does not have."""
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.sorted_ids, ids), len(self.ids) - 1)
        return np.where(self.sorted_ids[at] == ids, self.position_of[at], -1)


class ItemIndex:
    """Servable items of one model version by vector. One thread refreshes, any number search."""

    def __init__(self, layout: N2OLayout, new_base: Callable[[], Base]) -> None:
        self.builds = 0
        self._layout = layout
        self._new_base = new_base
        self._snapshot: _Snapshot | None = None

    def __len__(self) -> int:
        """Items that can be found."""
        at = self._snapshot
        return 0 if at is None else len(at.ids) - int(np.count_nonzero(at.stale)) + len(at.delta_ids)

    @property
    def ready(self) -> bool:
        """Whether it was ever built."""
        return self._snapshot is not None

    def refresh(self, rows: Callable[[], Iterable[npt.NDArray[Any]]]) -> int:
        """Follow the version's rows (`rows()`: all of its records in chunks, each id once); returns how many changed.

        Costs a pass over the rows, and a build where enough of them are new: belongs to a thread of its own.
        """
        at = self._snapshot
        at = self._built(rows()) if at is None else self._swept(at, rows())
        changed = int(np.count_nonzero(at.stale)) + len(at.delta_ids)
        if changed > max(_REBUILT_ROWS, _REBUILT_SHARE * len(at.ids)):
            self._snapshot = at  # right already, only slower: the next base may take a while
            at = self._built(rows())
        self._snapshot = at
        return changed

    def search(self, queries: _Floats, count: int) -> _Ints:
        """Items near any of the queries ([q, d]), nearest first ([<= count] int64); none before the first refresh."""
        at = self._snapshot
        if at is None or not len(queries):
            return np.zeros(0, dtype=np.int64)
        directions = _unit(queries)
        positions, similarities = at.base.search(directions, count + int(np.count_nonzero(at.stale)))
        kept = ~at.stale[positions]
        newer, newer_similarities = at.delta.search(directions, count)
        ids = np.concatenate((at.ids[positions[kept]], at.delta_ids[newer]))
        order = np.argsort(-np.concatenate((similarities[kept], newer_similarities)), kind="stable")
        _, first = np.unique(ids[order], return_index=True)
        return ids[order][np.sort(first)][:count]

    def _built(self, chunks: Iterable[npt.NDArray[Any]]) -> _Snapshot:
        base, ids, stamps = self._new_base(), [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.uint64)]
        for records in map(_servable, chunks):
            base.add(_unit(self._layout.vectors(records)))
            ids.append(records["item_id"].copy())
            stamps.append(_stamps(records))
        self.builds += 1
        found = np.concatenate(ids)
        order = np.argsort(found)
        none = np.zeros(0, dtype=np.int64)
        nothing = np.zeros(len(found), dtype=np.bool_)
        return _Snapshot(base, found, np.concatenate(stamps), found[order], order, nothing, none, Exact())

    def _swept(self, at: _Snapshot, chunks: Iterable[npt.NDArray[Any]]) -> _Snapshot:
        """The same base with what differs from it now."""
        stale, delta, ids = np.ones(len(at.ids), dtype=np.bool_), Exact(), [np.zeros(0, dtype=np.int64)]
        for records in map(_servable, chunks):
            positions = at.positions(records["item_id"])
            same = (positions >= 0) & (at.stamps[positions] == _stamps(records) if len(at.stamps) else False)
            stale[positions[same]] = False
            differing = records[~same]
            delta.add(_unit(self._layout.vectors(differing)))
            ids.append(differing["item_id"].copy())
        return replace(at, stale=stale, delta_ids=np.concatenate(ids), delta=delta)


def _servable(records: npt.NDArray[Any]) -> npt.NDArray[Any]:
    servable: npt.NDArray[Any] = records[records["flags"] & Flag.DELETED == 0]
    return servable


def _stamps(records: npt.NDArray[Any]) -> _Stamps:
    """A number that changes when a row's vector may have: of the update and the activity snapshot behind it."""
    with np.errstate(over="ignore"):
        source = records["source_offset"].view(np.uint64) * _ODD
        return np.asarray((source ^ records["snapshot_ms"].view(np.uint64)) * _ODD, dtype=np.uint64)


def _unit(vectors: _Floats) -> _Floats:
    """Vectors of length 1 ([n, d]); zeros stay zeros."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _best(values: _Floats, count: int) -> _Ints:
    """Positions of the highest values, in any order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.asarray(np.argpartition(values, len(values) - count)[len(values) - count :], dtype=np.int64)
