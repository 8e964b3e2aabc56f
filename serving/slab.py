"""The slab: all N2O rows of one model version, in memory, 64-byte aligned.

One thread writes (the feed), any number read. A reader gets copies: `gather` looks ids up and copies their rows while
it holds the lock; the writer changes rows and the id index only while it holds the same lock, at most `_CHUNK` rows at
a time (about 0.2 ms), so that a copied row is never half of one update and half of the next, and a reader never waits
for a whole batch. What is expensive for the writer (looking up, growing, rehashing) happens outside the lock: nobody
else writes, so nothing can change under it.

The slab reads only the head of a record, which is the same for every model (domain/n2o.py); rows can therefore be
kept before their model's artifact has been seen.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.n2o import Flag, N2OLayout
from serving.id_index import IdIndex

__all__ = ["Records", "Slab", "header_dtype"]

#: Rows as they travel: [n, stride] uint8, C-contiguous.
Records = npt.NDArray[np.uint8]

_CHUNK: Final = 1024
_ALIGNMENT: Final = 64
_FIRST_CAPACITY: Final = 1024


def header_dtype(stride: int) -> np.dtype[Any]:
    """`item_id`, `version` and `flags` of a record of that stride, whatever its vector sizes."""
    fields = N2OLayout(1, 1, 64).dtype.fields
    assert fields is not None
    names = ["item_id", "version", "flags"]
    return np.dtype(
        {
            "names": names,
            "formats": [fields[name][0] for name in names],
            "offsets": [fields[name][1] for name in names],
            "itemsize": stride,
        }
    )


class Slab:
    """Rows of the model version `tag` by item id."""

    def __init__(self, tag: int, stride: int, capacity: int = _FIRST_CAPACITY) -> None:
        self.tag = tag
        self.stride = stride
        self.servable = 0  #: rows whose item is not deleted
        self._header = header_dtype(stride)
        self._lock = threading.Lock()
        self._rows = _aligned(capacity, stride)
        self._index = IdIndex(capacity)
        self._top = 0  #: slots at and above this were never used
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of rows and index, free ones included."""
        return self._rows.nbytes + self._index.nbytes

    def gather(self, ids: npt.NDArray[np.int64], out: Records) -> npt.NDArray[np.bool_]:
        """Copy the row of each id ([n] int64) into `out` ([n, stride] uint8).

        Returns which ids have a row ([n] bool); the others' rows are zeros. All copies are of one moment.
        """
        with self._lock:
            slots = self._index.find(ids)
            np.take(self._rows, slots, axis=0, out=out, mode="clip")
        known = slots >= 0
        if not known.all():
            out[~known] = 0
        return known

    def put(self, records: Records) -> None:
        """Insert or replace rows ([n, stride] uint8); the last of equal ids wins."""
        for start in range(0, len(records), _CHUNK):
            self._put_chunk(records[start : start + _CHUNK])

    def delete(self, ids: npt.NDArray[np.int64]) -> None:
        """Remove the rows of these ids ([n] int64), where there are any."""
        with self._lock:
            slots = self._index.remove(np.unique(ids))
            self.servable -= self._count_servable(self._rows[slots])
        self._free.extend(slots.tolist())

    def _put_chunk(self, records: Records) -> None:
        ids = self._head(records)["item_id"]
        distinct, from_end = np.unique(ids[::-1], return_index=True)
        records = records[len(ids) - 1 - from_end]
        slots = self._index.find(distinct)
        added = np.flatnonzero(slots < 0)
        slots[added] = self._take_slots(len(added))
        self._make_room(int(slots.max(initial=-1)) + 1, len(added))
        replaced = np.delete(slots, added)
        with self._lock:
            self.servable += self._count_servable(records) - self._count_servable(self._rows[replaced])
            self._rows[slots] = records
            self._index.insert(distinct[added], slots[added])

    def _take_slots(self, count: int) -> npt.NDArray[np.int64]:
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = count - len(reused)
        self._top += fresh
        return np.array(reused + list(range(self._top - fresh, self._top)), dtype=np.int64)

    def _make_room(self, slots: int, new_ids: int) -> None:
        """Grow by doubling. The larger copy is filled beside the old one and swapped in: readers never wait for it."""
        rows, index = self._rows, self._index
        if slots > len(rows):
            rows = _aligned(max(slots, 2 * len(rows)), self.stride)
            rows[: len(self._rows)] = self._rows
        if not index.fits(new_ids):
            index = index.grown(new_ids)
        with self._lock:
            self._rows, self._index = rows, index

    def _head(self, records: Records) -> npt.NDArray[Any]:
        return np.ascontiguousarray(records).view(self._header)[:, 0]

    def _count_servable(self, records: Records) -> int:
        return len(records) - int(np.count_nonzero(self._head(records)["flags"] & Flag.DELETED))


def _aligned(rows: int, stride: int) -> Records:
    """[rows, stride] zeros, so that records start on cache lines. Untouched pages cost no memory."""
    raw = np.zeros(rows * stride + _ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + rows * stride].reshape(rows, stride)
