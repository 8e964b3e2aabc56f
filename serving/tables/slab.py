"""The slab: all N2O rows of one model version, in files that one process writes and any number map read-only.

A reader gets copies: `Slab.gather` announces itself (epochs.py), looks all ids up in one moment, copies their records
and takes the announcement back, in one compiled call without the interpreter's lock. The writer never changes a record
that can be found: a new version of a row goes to a free place, then the index is switched to it, and the old place is
used again when no reader that might have found it is left. Nobody waits for anybody, and a process that is killed or
stopped anywhere leaves nothing locked.

The order in which stores become visible is that of `slab_kernel.fence`. Two more things guard a reader: a copied record
must be of the id and version asked for, and a lease revoked meanwhile makes it copy again.

The slab reads only the head of a record, which is the same for every model (domain/n2o.py); rows can therefore be
kept before their model's artifact has been seen.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.n2o import Flag, N2OLayout
from schemas.errors import Corrupt
from serving.joining import ItemRows, one_version
from serving.tables import slab_kernel as kernel
from serving.tables.epochs import Epochs, Words
from serving.tables.id_index import IdIndex
from serving.tables.places import Places
from serving.tables.readers import Readers
from serving.tables.slab_file import SlabFile
from serving.tables.slab_kernel import COUNT, GENERATION, SERVABLE

__all__ = ["Reader", "Records", "Slab", "SlabWriter", "compile_slabs", "header_dtype"]

#: Rows as they travel: [n, stride] uint8, C-contiguous.
Records = npt.NDArray[np.uint8]
#: A board and the word at which the calling thread's line begins (readers.py).
Reader = Callable[[], tuple[Words, int]]

#: Rows that are published together: readers are asked to wait for no longer than that takes.
_CHUNK: Final = 1024
_BUSY_S: Final = 5e-5
#: A writer that is busy for longer was stopped or killed while it published: 20 ms.
_BUSY_TRIES: Final = 400
_DAMAGED_TRIES: Final = 3


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
    """The rows of one version, to read. Any thread may; each has its own line of the board.

    Raises Corrupt where the files are not whole.
    """

    def __init__(self, path: Path, reader: Reader) -> None:
        self._file = SlabFile.open(path, writable=False)
        self._reader = reader
        self._index = self._map_index()
        self.tag = self._file.tag
        self.stride = self._file.stride
        self._stuck_at = -1  #: what the header's word said when it was given up waiting for
        self.damaged = 0  #: records found that were not of the id and version asked for
        self.revoked = 0  #: gathers that began again, the writer having needed the places that they read

    def __len__(self) -> int:
        return int(self._file.header[COUNT])

    @property
    def servable(self) -> int:
        """Rows whose item is not deleted."""
        return int(self._file.header[SERVABLE])

    @property
    def nbytes(self) -> int:
        """Bytes of rows, checksums and index."""
        return len(self) * (self.stride + 8) + self._index[1].nbytes

    def ids(self) -> Words:
        """Ids of the rows ([n] int64, in no order). Those that come or go meanwhile may be there or not."""
        self.gather(np.empty(0, dtype=np.int64), np.empty((0, self.stride), dtype=np.uint8))  # follows a new index
        entries = self._index[1]
        return np.array(entries[entries[:, 1] >= kernel.FIRST_SLOT, 0])

    def gather(self, ids: npt.NDArray[np.int64], out: Records) -> npt.NDArray[np.bool_]:
        """Copy the row of each id ([n] int64) into `out` ([n, stride] uint8).

        Returns which ids have a row ([n] bool); the others' rows are zeros. Each row is whole, of its id and of this
        version. All are of one moment, unless the feeder was stopped or killed while it published a batch: then of
        that batch a part may show.
        """
        known = np.empty(len(ids), dtype=np.bool_)
        into = out if out.ctypes.data % 8 == 0 and out.flags.c_contiguous else np.empty(out.shape, dtype=np.uint8)
        self._gather(np.ascontiguousarray(ids), into.view(np.uint64), known)
        if into is not out:
            out[:] = into
        return known

    def rows(self, ids: npt.NDArray[np.int64], out: Records) -> ItemRows:
        """The same as rows that say of which version they are; they stay valid as long as `out` is not used again."""
        return ItemRows(self.tag, out, self.gather(ids, out))

    def _gather(self, ids: Words, out: npt.NDArray[np.uint64], known: npt.NDArray[np.bool_]) -> None:
        board, line = self._reader()
        file, tag, damaged = self._file, np.uint64(self.tag), 0
        busy = -1 if self._publishing_stays else 0
        while True:
            generation, entries = self._index
            ended = kernel.gather(
                board, line, file.header, generation, entries, file.rows, tag, ids, out, known, busy >= 0
            )
            if ended == kernel.DONE:
                return
            if ended == kernel.BUSY:
                busy += 1
                time.sleep(_BUSY_S)
                if busy == _BUSY_TRIES:
                    self._stuck_at, busy = int(file.header[kernel.PUBLISHING]), -1
            elif ended == kernel.REMAP:
                self._index = self._map_index()
            elif ended == kernel.DAMAGED:
                damaged += 1
                if damaged == _DAMAGED_TRIES:  # the row counts as missing; the feeder's next start finds and mends it
                    self.damaged += 1
                    return
            else:
                self.revoked += 1

    @property
    def _publishing_stays(self) -> bool:
        """Whether the writer was found to have ended in the middle of publishing, and nobody has gone on since."""
        return self._stuck_at == int(self._file.header[kernel.PUBLISHING])

    def _map_index(self) -> tuple[int, Words]:
        """The current index. A new one may come while it is opened."""
        for _ in range(10):
            generation = int(self._file.header[GENERATION])
            try:
                return generation, self._file.entries(generation, writable=False)
            except Corrupt:
                if generation == int(self._file.header[GENERATION]):
                    raise
        raise Corrupt(f"{self._file.path}: its index changes faster than it can be opened")


class SlabWriter:
    """The rows of one version, to write; there is one such object of a slab. One thread at a time may call it.

    `SlabWriter.create` makes an empty slab; opening an existing one checks all of it and raises Corrupt where it is
    not whole. A writer killed at any point leaves a slab that opens, with the rows published until then.
    """

    def __init__(self, file: SlabFile, epochs: Epochs) -> None:
        self._file, self._epochs = file, epochs
        epochs.advance()
        epochs.revoke(epochs.now)  # which places the writer before gave up is not known: nobody may go on reading them
        slots = file.checked()
        if file.header[kernel.PUBLISHING] & 1:  # the writer before was killed there
            file.header[kernel.PUBLISHING] += 1
        self._generation = int(file.header[GENERATION])
        self._index = IdIndex(file.entries(self._generation, writable=True))
        self._places = Places(len(file.rows), slots)
        self._header = header_dtype(file.stride)
        self._lock = threading.Lock()
        self.tag, self.stride = file.tag, file.stride

    @classmethod
    def create(cls, path: Path, tag: int, stride: int, epochs: Epochs) -> SlabWriter:
        """An empty slab."""
        return cls(SlabFile.create(path, tag, stride), epochs)

    @classmethod
    def open(cls, path: Path, epochs: Epochs) -> SlabWriter:
        """A slab that is there. Raises Corrupt."""
        return cls(SlabFile.open(path, writable=True), epochs)

    def __len__(self) -> int:
        return int(self._file.header[COUNT])

    @property
    def servable(self) -> int:
        """Rows whose item is not deleted."""
        return int(self._file.header[SERVABLE])

    @property
    def nbytes(self) -> int:
        """Bytes of rows ever written, their checksums, and the index: what it takes of memory and disk."""
        return self._places.top * (self.stride + 8) + self._index.entries.nbytes

    @property
    def most_bytes(self) -> int:
        """What `nbytes` stays below for as many rows as now, whatever readers do: rows, limbo, one batch, index."""
        return (len(self) + self._places.most_in_limbo + 2 * _CHUNK) * (self.stride + 8) + self._index.entries.nbytes

    def put(self, records: Records) -> None:
        """Insert or replace rows ([n, stride] uint8); the last of equal ids wins.

        Raises VersionMismatch where one is of another version; then none is put.
        """
        tags = self._heads(records)["version"]
        if (unlike := tags[tags != self.tag]).size:
            one_version("a slab", slab=self.tag, row=int(unlike[0]))
        for start in range(0, len(records), _CHUNK):
            self._put(np.ascontiguousarray(records[start : start + _CHUNK]))

    def delete(self, ids: Words) -> None:
        """Remove the rows of these ids ([n] int64), where there are any."""
        ids = np.unique(ids)
        ids = ids[self._index.find(ids) >= 0]
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK]
            self._publish(some, np.full(len(some), -1), added=-len(some), servable=0)

    def unlink(self) -> None:
        """Remove the files; readers that hold the slab keep it."""
        self._file.unlink()

    def _put(self, records: Records) -> None:
        ids = self._heads(records)["item_id"]
        distinct, from_end = np.unique(ids[::-1], return_index=True)
        records = np.ascontiguousarray(records[len(ids) - 1 - from_end])
        if not self._index.fits(distinct):
            self._replace_index(len(distinct))
        slots = self._take(len(distinct))
        kernel.write_rows(self._file.rows, self._file.sums, slots, records.view(np.uint64))
        added = int(np.count_nonzero(self._index.find(distinct) < 0))
        self._publish(distinct, slots, added, _servable(self._heads(records)))

    def _publish(self, ids: Words, slots: Words, added: int, servable: int) -> None:
        """Switch the index over, and give up the places before; `servable` counts rows that come."""
        old = self._index.publish(self._file.header, ids, slots)
        gone = self._file.rows[old].view(np.uint8).reshape(len(old), self.stride)
        self._file.header[SERVABLE] += servable - _servable(self._heads(gone))
        self._file.header[COUNT] += added
        self._places.give_up(old, self._epochs.advance())

    def _take(self, count: int) -> Words:
        """Free places; where stalled readers hold too many back, their leases are revoked first."""
        places, epochs = self._places, self._epochs
        places.recycle(epochs.oldest())
        if places.in_limbo + count > places.most_in_limbo:
            epochs.revoke(epochs.now)
            places.recycle(epochs.oldest())
        return places.take(count)

    def _replace_index(self, more: int) -> None:
        """A larger index without removed entries, filled beside the old one and switched to with one store."""
        ids, slots = self._index.live()
        made = IdIndex(self._file.new_index(self._generation + 1, 5 * (len(ids) + more) // 4))
        made.publish(np.zeros(8, dtype=np.int64), ids, slots)
        kernel.fence()
        self._file.header[GENERATION] = self._generation + 1
        self._epochs.advance()
        self._file.drop_index(self._generation)
        self._index, self._generation = made, self._generation + 1

    def _heads(self, records: Records) -> npt.NDArray[Any]:
        return records.view(self._header)[:, 0]


def compile_slabs() -> None:
    """Write and read a small slab once, so that no request pays for compiling; with kept machine code it is quick."""
    with tempfile.TemporaryDirectory(prefix="aif-slab-") as folder:
        readers, path = Readers(Path(folder) / "readers"), Path(folder) / f"{1:016x}.slab"
        epochs, stride = Epochs(readers.board), N2OLayout(1, 1, 64).stride
        row = np.zeros((1, stride), dtype=np.uint8)
        row.view(header_dtype(stride))["version"] = 1
        SlabWriter.create(path, 1, stride, epochs).put(row)
        writer, ids = SlabWriter.open(path, epochs), np.zeros(1, dtype=np.int64)
        Slab(path, readers.line).gather(ids, row)
        writer.delete(ids)


def _servable(heads: npt.NDArray[Any]) -> int:
    return len(heads) - int(np.count_nonzero(heads["flags"] & Flag.DELETED))
