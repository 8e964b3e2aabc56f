"""Compiled steps of reading and writing a slab that other processes map (slab.py, id_index.py, epochs.py).

Shared words are int64, aligned, and each has one writer; `fence` orders them between processes. Where a step must be
visible before the next one is, the two stand on either side of a fence. Every function also runs as plain Python
(`.py_func`), which is how tests interleave a reader's and a writer's steps.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from domain.compiled import njit

__all__ = [
    "ANNOUNCED", "BUSY", "COUNT", "DAMAGED", "DONE", "EMPTY", "EPOCH", "FIRST_SLOT", "GENERATION", "PUBLISHING",
    "READER_WORDS", "REMAP", "REMOVED", "REVOKED", "REVOKED_TICKET", "SERVABLE", "TICKET", "check_rows",
    "checksum", "claim", "copy", "enter", "fence", "find", "find_one", "gather", "leave", "locate",
    "publish", "write_rows",
]  # fmt: skip

Words = npt.NDArray[np.int64]

#: Word of the board that holds the epoch (epochs.py).
EPOCH: Final = 8
#: Words of one reader's line of the board, and which is which; the last is the writer's, on a cache line of its own.
READER_WORDS: Final = 16
ANNOUNCED: Final = 0
TICKET: Final = 1
REVOKED_TICKET: Final = 8

#: Words of a slab's header that change (slab_file.py).
PUBLISHING: Final = 0
GENERATION: Final = 8
COUNT: Final = 9
SERVABLE: Final = 10

#: The second word of an index entry (id_index.py): never used, not in use, or a slot from FIRST_SLOT on.
EMPTY: Final = 0
REMOVED: Final = 1
FIRST_SLOT: Final = 2

#: How a gather ended.
DONE: Final = 0
BUSY: Final = 1  #: the writer was publishing all the while
REMAP: Final = 2  #: there is a larger index
REVOKED: Final = 3  #: the lease was revoked while it copied
DAMAGED: Final = 4  #: a row is of another id or version

_TRIES: Final = 16
_LINE: Final = 8  #: words of a line of the cache; records are whole lines
_IDS_AHEAD: Final = 16  #: index entries that are fetched ahead
_ROWS_AHEAD: Final = 32  #: records that are fetched ahead, by measurement: as many lines as memory delivers at a time
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(32)
_ITEM_WORD: Final = 0  #: of a record: item_id (domain/n2o.py)
_VERSION_WORD: Final = 4
_FLAGS_WORD: Final = 7  #: price in the lower half, flags in the upper; DELETED is their first bit


@intrinsic
def _fence(context: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), emit


@intrinsic
def _prefetch(context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of a flat element."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [at.type] + [ir.IntType(32)] * 3)
        function = builder.module.declare_intrinsic("llvm.prefetch", [at.type], kind)
        builder.call(function, [at, *(ir.Constant(ir.IntType(32), each) for each in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(array, types.int64), emit


@intrinsic
def _copy_line(context: Any, source: Any, start: Any, to: Any, at: Any) -> Any:
    """Copy eight words from a flat element of one array to one of another."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line, places = ir.VectorType(ir.IntType(64), _LINE).as_pointer(), []
        for array, index in ((0, 1), (2, 3)):
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            places.append(builder.bitcast(builder.gep(data, [arguments[index]]), line))
        builder.store(builder.load(places[0], align=8), places[1], align=8)
        return context.get_dummy_value()

    return types.none(source, types.int64, to, types.int64), emit


def fence() -> None:
    """What stands before is visible to every process before what stands behind; nothing in plain Python."""


@overload(fence)
def _fence_compiled() -> Any:
    def compiled() -> None:
        _fence()

    return compiled


def prefetch(array: npt.NDArray[Any], index: int) -> None:
    """A hint that a flat element will be read; nothing in plain Python."""


@overload(prefetch)
def _prefetch_compiled(array: Any, index: Any) -> Any:
    def compiled(array: Any, index: Any) -> None:
        _prefetch(array, index)

    return compiled


def copy_line(rows: npt.NDArray[np.uint64], slot: int, word: int, out: npt.NDArray[np.uint64]) -> None:
    """Copy the eight words from `word` on of a slot's record ([words]), in wide loads and stores.

    A loop over words stays one of words, as LLVM cannot know that the arrays are apart, and takes three times as long.
    """
    for each in range(word, word + _LINE):
        out[each] = rows[slot, each]


@overload(copy_line)
def _copy_line_compiled(rows: Any, slot: Any, word: Any, out: Any) -> Any:
    def compiled(rows: Any, slot: Any, word: Any, out: Any) -> None:
        _copy_line(rows, slot * rows.shape[1] + word, out, word)

    return compiled


@njit(nogil=True)
def enter(board: Words, reader: int) -> None:
    """Announce that a reader, whose line begins at word `reader`, may hold slots from now on."""
    board[reader + TICKET] += 1
    board[reader + ANNOUNCED] = board[EPOCH]
    fence()


@njit(nogil=True)
def leave(board: Words, reader: int) -> bool:
    """Take the announcement back; False where it was revoked, so that what was copied may be anything."""
    fence()
    held = board[reader + REVOKED_TICKET] < board[reader + TICKET]
    board[reader + ANNOUNCED] = 0
    return bool(held)


@njit(nogil=True)
def _home(item: int, size: int) -> int:
    mixed = np.uint64(item) * _MIX
    return np.int64((mixed ^ (mixed >> _HALF)) & np.uint64(size - 1))  # type: ignore[return-value]


@njit(nogil=True)
def find_one(entries: Words, item: int) -> int:
    """Slot of an id, -1 where there is none."""
    size = len(entries)
    at = _home(item, size)
    for _ in range(size):
        held = entries[at, 1]
        if held == EMPTY:
            return -1
        if entries[at, 0] == item:
            return held - FIRST_SLOT if held >= FIRST_SLOT else -1
        at = (at + 1) & (size - 1)
    return -1


@njit(nogil=True)
def find(entries: Words, ids: Words, slots: Words) -> None:
    """Slot of each id into `slots` ([n]), -1 where there is none."""
    size = len(entries)
    for row in range(len(ids)):
        if row + _IDS_AHEAD < len(ids):
            prefetch(entries, 2 * _home(ids[row + _IDS_AHEAD], size))
        slots[row] = find_one(entries, ids[row])


@njit(nogil=True)
def locate(entries: Words, ids: Words, places: Words) -> None:
    """Entry of each id, in use or not, into `places` ([n]), -1 where it has none."""
    size = len(entries)
    for row in range(len(ids)):
        at, places[row] = _home(ids[row], size), -1
        for _ in range(size):
            if entries[at, 1] == EMPTY:
                break
            if entries[at, 0] == ids[row]:
                places[row] = at
                break
            at = (at + 1) & (size - 1)


@njit(nogil=True)
def claim(entries: Words, ids: Words, places: Words) -> int:
    """Give each id without an entry one that is not in use yet; how many were new. There must be room."""
    size, added = len(entries), 0
    for row in range(len(ids)):
        if places[row] >= 0:
            continue
        at = _home(ids[row], size)
        while entries[at, 1] != EMPTY:
            at = (at + 1) & (size - 1)
        entries[at, 0] = ids[row]
        entries[at, 1] = REMOVED
        places[row] = at
        added += 1
    return added


@njit(nogil=True)
def publish(header: Words, entries: Words, places: Words, held: Words) -> None:
    """Make entries say `held` ([n]), as one change to every reader that waits for it."""
    header[PUBLISHING] += 1
    fence()
    for row in range(len(places)):
        entries[places[row], 1] = held[row]
    fence()
    header[PUBLISHING] += 1
    fence()


@njit(nogil=True)
def checksum(row: npt.NDArray[np.uint64]) -> int:
    """Of one record; never 0, which an unwritten one has."""
    mixed = np.uint64(len(row))
    for word in range(len(row)):
        mixed = (mixed ^ row[word]) * _MIX
        mixed ^= mixed >> _HALF
    return np.int64(mixed | np.uint64(1))  # type: ignore[return-value]


@njit(nogil=True)
def write_rows(rows: npt.NDArray[np.uint64], sums: Words, slots: Words, records: npt.NDArray[np.uint64]) -> None:
    """Put records ([n, words]) and their checksums into slots that nobody reads."""
    for row in range(len(slots)):
        rows[slots[row]] = records[row]
        sums[slots[row]] = checksum(records[row])
    fence()


@njit(nogil=True)
def check_rows(rows: npt.NDArray[np.uint64], sums: Words, tag: np.uint64, ids: Words, slots: Words) -> tuple[int, int]:
    """Of records that an index names: the first that is not as it was written, -1 if all are; and how many servable."""
    servable = 0
    for row in range(len(slots)):
        slot = slots[row]
        if row + 4 < len(slots):
            for line in range(0, rows.shape[1], 8):
                prefetch(rows, slots[row + 4] * rows.shape[1] + line)
        record = rows[slot]
        if np.int64(record[_ITEM_WORD]) != ids[row] or record[_VERSION_WORD] != tag or checksum(record) != sums[slot]:
            return row, servable
        servable += np.int64(record[_FLAGS_WORD] >> _HALF) & 1 == 0
    return -1, servable


@njit(nogil=True)
def copy(rows: npt.NDArray[np.uint64], slot: int, out: npt.NDArray[np.uint64], item: int, tag: np.uint64) -> bool:
    """Copy a slot's record ([words]); False where it is not the item's, of that version."""
    for word in range(0, len(out), _LINE):
        copy_line(rows, slot, word, out)
    return bool(np.int64(out[_ITEM_WORD]) == item and out[_VERSION_WORD] == tag)


@njit(nogil=True)
def _settled(header: Words, entries: Words, ids: Words, slots: Words) -> bool:
    """Find all slots while nothing is published; False where that did not happen."""
    for _ in range(_TRIES):
        fence()
        before = header[PUBLISHING]
        if before & 1:
            continue
        fence()
        find(entries, ids, slots)
        fence()
        if header[PUBLISHING] == before:
            return True
    return False


@njit(nogil=True)
def gather(
    board: Words,
    reader: int,
    header: Words,
    generation: int,
    entries: Words,
    rows: npt.NDArray[np.uint64],
    tag: np.uint64,
    ids: Words,
    out: npt.NDArray[np.uint64],
    known: npt.NDArray[np.bool_],
    wait: bool,
) -> int:
    """Copy the record of each id ([n] -> [n, words]); says how it ended, and of `known` ([n]) which ids have one.

    `wait` refuses (BUSY) to read in the middle of what is being published.
    """
    enter(board, reader)
    if header[GENERATION] != generation:
        leave(board, reader)
        return REMAP
    slots = np.empty(len(ids), dtype=np.int64)
    if not _settled(header, entries, ids, slots):
        if wait:
            leave(board, reader)
            return BUSY
        find(entries, ids, slots)
    damaged, words = False, rows.shape[1]
    for row in range(len(ids)):
        if row + _ROWS_AHEAD < len(ids) and slots[row + _ROWS_AHEAD] >= 0:
            for line in range(0, words, _LINE):
                prefetch(rows, slots[row + _ROWS_AHEAD] * words + line)
        slot = slots[row]
        known[row] = 0 <= slot < len(rows) and copy(rows, slot, out[row], ids[row], tag)
        if not known[row]:
            out[row] = 0
            damaged |= slot >= 0
    if not leave(board, reader):
        return REVOKED
    return DAMAGED if damaged else DONE
