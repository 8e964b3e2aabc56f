"""A slab on disk: the files of one model version's rows, their header, and the check that they are whole.

::

    <tag>.slab      a page of header, then records of `stride` bytes, on cache lines; sparse, so large that it never
                    has to grow
    <tag>.sums      a checksum of each record (int64 each), sparse too
    <tag>.index-N   the id -> slot hash of generation N (id_index.py); a larger one replaces it

The header's first words never change and are checksummed; the others (publishing, generation, counts) belong to the
writer. Opening to write checks every record that the index names against its checksum, id and version: 1 M records of
256 bytes take about 0.2 s, once at the start of the feeder. What does not hold is Corrupt, and the state is rebuilt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.errors import Corrupt
from serving.tables.id_index import entries_for
from serving.tables.shared_file import mapped_words, sparse_file
from serving.tables.slab_kernel import COUNT, FIRST_SLOT, GENERATION, SERVABLE, check_rows, checksum

__all__ = ["SlabFile"]

Words = npt.NDArray[np.int64]

_MAGIC: Final = int.from_bytes(b"AIFSLAB1", "little")
_PAGE: Final = 4096
_FIXED_WORDS: Final = 6
#: Word of the header at which those begin that change.
_CHANGING: Final = 64
#: Most bytes of records: a sparse file takes only what is written.
_RESERVED_BYTES: Final = 64 << 30


@dataclass
class SlabFile:
    """The mapped files of a slab."""

    path: Path
    tag: int
    stride: int
    header: Words  #: the words that change
    rows: npt.NDArray[np.uint64]  #: [reserved, stride / 8]
    sums: Words  #: [reserved]

    @classmethod
    def create(cls, path: Path, tag: int, stride: int) -> SlabFile:
        """Make the files of an empty slab."""
        reserved, made = _RESERVED_BYTES // stride, path.with_suffix(".new")
        sparse_file(made, _PAGE + reserved * stride)
        sparse_file(path.with_suffix(".sums"), 8 * reserved)
        sparse_file(_index_path(path, 0), 16 * entries_for(0))
        words = mapped_words(made, writable=True)
        words[: _FIXED_WORDS - 1] = [_MAGIC, 1, stride, int(np.uint64(tag).view(np.int64)), reserved]
        words[_FIXED_WORDS - 1] = checksum(words[: _FIXED_WORDS - 1].view(np.uint64))
        made.rename(path)  # last: who finds the slab finds all of it
        return cls.open(path, writable=True)

    @classmethod
    def open(cls, path: Path, writable: bool) -> SlabFile:
        """Map an existing slab. Raises Corrupt where its files are not there or not what their header says."""
        try:
            words = mapped_words(path, writable)
            sums = mapped_words(path.with_suffix(".sums"), writable)
        except (OSError, ValueError) as error:
            raise Corrupt(f"{path} cannot be mapped: {error}; it is rebuilt") from error
        fixed = words[:_FIXED_WORDS]
        if len(words) < _PAGE // 8 or fixed[0] != _MAGIC or fixed[-1] != checksum(fixed[:-1].view(np.uint64)):
            raise Corrupt(f"{path} has no valid header; it is rebuilt")
        _, _, stride, _, reserved, _ = fixed.tolist()
        if len(words) * 8 != _PAGE + reserved * stride or len(sums) != reserved:
            raise Corrupt(f"{path} or its checksums were cut: {len(words) * 8} bytes of {reserved} records; rebuilt")
        rows = words[_PAGE // 8 :].view(np.uint64).reshape(reserved, stride // 8)
        return cls(path, int(fixed[3:4].view(np.uint64)[0]), stride, words[_CHANGING : _PAGE // 8], rows, sums)

    def entries(self, generation: int, writable: bool) -> Words:
        """The index of a generation ([entries, 2] int64). Raises Corrupt where it is not there or was cut."""
        path = _index_path(self.path, generation)
        try:
            words = mapped_words(path, writable)
        except (OSError, ValueError) as error:
            raise Corrupt(f"{path} cannot be mapped: {error}; it is rebuilt") from error
        if len(words) % 2 or len(words) & (len(words) - 1):
            raise Corrupt(f"{path} has {len(words)} words, no power of two: it was cut; it is rebuilt")
        return words.reshape(-1, 2)

    def new_index(self, generation: int, ids: int) -> Words:
        """Make an empty index for so many ids."""
        sparse_file(_index_path(self.path, generation), 16 * entries_for(ids))
        return self.entries(generation, writable=True)

    def drop_index(self, generation: int) -> None:
        """Remove an index that has been replaced; who maps it keeps it."""
        _index_path(self.path, generation).unlink(missing_ok=True)

    def unlink(self) -> None:
        """Remove all files; who maps them keeps them."""
        for path in self.path.parent.glob(f"{self.path.stem}.*"):
            path.unlink(missing_ok=True)

    def checked(self) -> Words:
        """The slots of the current index ([n] int64), every record checked; sets the counts.

        Raises Corrupt naming the first record that is not what the index says.
        """
        entries = self.entries(int(self.header[GENERATION]), writable=True)
        live = entries[entries[:, 1] >= FIRST_SLOT]
        ids, slots = live[:, 0].copy(), live[:, 1] - FIRST_SLOT
        if not _distinct(slots, len(self.rows)):
            raise Corrupt(f"{self.path}: its index names a record twice, or one beyond the file; it is rebuilt")
        bad, servable = check_rows(self.rows, self.sums, np.uint64(self.tag), ids, slots)
        if bad >= 0:
            raise Corrupt(f"{self.path}: record {slots[bad]} is not item {ids[bad]}'s as written; it is rebuilt")
        self.header[COUNT], self.header[SERVABLE] = len(ids), servable
        return slots


def _index_path(path: Path, generation: int) -> Path:
    return path.with_suffix(f".index-{generation}")


def _distinct(slots: Words, below: int) -> bool:
    """Whether all are different, and below a number. (np.unique takes half a second for a million.)"""
    top = int(slots.max(initial=-1)) + 1
    if top > below:
        return False
    seen = np.zeros(top, dtype=np.bool_)
    seen[slots] = True
    return int(np.count_nonzero(seen)) == len(slots)
