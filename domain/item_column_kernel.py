"""Rows of table items from their Avro bytes into columns, compiled: the hot path of rebuilds.

Fields stand in a body in the order of their schema (Avro 1.12 specification, "Complex Types"). A row that another
schema wrote is decoded and encoded again first; one that the kernel cannot read is no row, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from domain.compiled import njit
from domain.item_columns import CatalogueColumns, ItemColumns, RowFormat, named_features, wrong_length
from schemas.codec import codec

__all__ = ["COMPILE_S", "decoded_items"]

_COMPILING: Final = time.perf_counter()

_HEADER_BYTES: Final = 10
_GOOD, _UNREADABLE, _EMBEDDING, _SIGNATURE, _FULL = range(5)
#: Columns of the longs: item_id, event_time_ms, source_topic_id, source_offset, category.
_LONGS: Final = 5
_CATEGORY: Final = 4
#: Columns of the flags.
_DELETED, _HAS_EMBEDDING, _HAS_CATEGORY, _HAS_SIGNATURE = range(4)


def decoded_items(values: Sequence[bytes], row_format: RowFormat) -> ItemColumns:
    """The columns of encoded rows: equal to `ItemColumns.of` the decoded ones.

    For rows of this build's writing, or decoded before: that a text is UTF-8 is not checked again. Raises DecodeError
    where a value is no item row, BadInput where a vector has another length than `row_format` says.
    """
    rows = codec("item_row")
    values = [value if value.startswith(rows.header) else rows.encode(rows.decode(value)) for value in values]
    ends = np.cumsum(np.fromiter(map(len, values), dtype=np.int64, count=len(values)))
    joined = b"".join(values)
    data = np.frombuffer(joined, dtype=np.uint8)
    count, version = len(values), np.frombuffer(row_format.signature_version.encode(), dtype=np.uint8)
    longs = np.zeros((count, _LONGS), dtype=np.int64)
    flags = np.zeros((count, 4), dtype=np.bool_)
    price = np.full(count, np.nan)
    embedding = np.zeros((count, 4 * row_format.embedding_dim), dtype=np.uint8)
    signature = np.zeros((count, row_format.signature_bits // 8), dtype=np.uint8)
    room = count
    while True:
        names, amounts = np.empty((room, 3), dtype=np.int64), np.empty(room)
        problem, row, found = _parse(data, ends, version, longs, flags, price, embedding, signature, names, amounts)
        if problem != _FULL:
            break
        room = 4 * room + 1024
    if problem == _EMBEDDING:
        raise wrong_length("embedding", found, embedding.shape[1])
    if problem == _SIGNATURE:
        raise wrong_length("signature", found, signature.shape[1])
    if problem == _UNREADABLE:
        rows.decode(values[row])  # says what is wrong with it
        raise AssertionError(f"an item row that fastavro reads and the kernel does not: {values[row].hex()}")
    texts = [joined[begin:end].decode(errors="replace") for begin, end in names[:found, 1:].tolist()]
    named = named_features(names[:found, 0], texts, amounts[:found], count)
    catalogue = CatalogueColumns(
        embedding, flags[:, _HAS_EMBEDDING], longs[:, _CATEGORY], flags[:, _HAS_CATEGORY], price, named
    )
    ids, times, topics, offsets = (longs[:, column] for column in range(4))
    return ItemColumns(ids, times, topics, offsets, flags[:, _DELETED], signature, flags[:, _HAS_SIGNATURE], catalogue)


@njit(nogil=True)
def _long(data: Any, at: int, end: int) -> Any:
    """A zigzag varint and the place behind it; place -1 where it does not end."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(70):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@njit(nogil=True)
def _span(data: Any, at: int, end: int) -> Any:
    """Where the bytes of a length-prefixed field begin and end; -1, -1 where they do not."""
    size, at = _long(data, at, end)
    if at < 0 or size < 0 or size > end - at:
        return np.int64(-1), np.int64(-1)
    return at, at + size


@njit(nogil=True)
def _present(data: Any, at: int, end: int) -> Any:
    """Whether a nullable field is there (1, 0; -1 where unreadable), and the place behind that."""
    branch, at = _long(data, at, end)
    if at < 0 or branch < 0 or branch > 1:
        return np.int64(-1), at
    return branch, at


@njit(nogil=True)
def _double(data: Any, at: int) -> float:
    return float(data[at : at + 8].copy().view(np.float64)[0])


@njit(nogil=True)
def _skip_texts(data: Any, at: int, end: int) -> int:
    """Behind original_id and title."""
    for _ in range(2):
        there, at = _present(data, at, end)
        if there < 0:
            return -1
        if there:
            _, at = _span(data, at, end)
            if at < 0:
                return -1
    return at


@njit(nogil=True)
def _map(data: Any, at: int, end: int, row: int, names: Any, amounts: Any, found: int) -> Any:
    """Note the entries of `numeric`: the place behind them, -1 where unreadable, -2 where there is no room for them."""
    while True:
        count, at = _long(data, at, end)
        if at < 0 or count == 0:
            return at, found
        if count < 0:
            count = -count
            _, at = _long(data, at, end)
            if at < 0:
                return at, found
        for _ in range(count):
            begin, at = _span(data, at, end)
            if at < 0 or end - at < 8:
                return np.int64(-1), found
            if found == len(names):
                return np.int64(-2), found
            names[found, 0], names[found, 1], names[found, 2] = row, begin, at
            amounts[found] = _double(data, at)
            found += 1
            at += 8


@njit(nogil=True)
def _head(data: Any, at: int, end: int, longs: Any, flags: Any, price: Any, row: int) -> int:
    """item_id to published_ms: the place behind them, -1 where unreadable."""
    for column in range(4):
        longs[row, column], at = _long(data, at, end)
        if at < 0:
            return -1
    if at >= end:
        return -1
    flags[row, _DELETED] = data[at] != 0
    at = _skip_texts(data, at + 1, end)
    if at < 0:
        return -1
    there, at = _present(data, at, end)
    if there < 0:
        return -1
    flags[row, _HAS_CATEGORY] = there == 1
    longs[row, _CATEGORY] = 0
    if there:
        longs[row, _CATEGORY], at = _long(data, at, end)
        if at < 0:
            return -1
    there, at = _present(data, at, end)
    if there < 0 or (there and end - at < 8):
        return -1
    if there:
        price[row] = _double(data, at)
        at += 8
    there, at = _present(data, at, end)
    if there < 0:
        return -1
    if there:
        _, at = _long(data, at, end)
    return at


@njit(nogil=True)
def _is(data: Any, begin: int, end: int, text: Any) -> bool:
    if end - begin != len(text):
        return False
    differs = 0
    for place in range(len(text)):
        differs |= data[begin + place] ^ text[place]
    return differs == 0


@njit(nogil=True)
def _parse(
    data: Any, ends: Any, version: Any, longs: Any, flags: Any, price: Any, embedding: Any, signature: Any,
    names: Any, amounts: Any,
) -> Any:  # fmt: skip
    """Fill the columns: (_GOOD, rows, named features), or (what is wrong, the row, the length found)."""
    start, found = 0, 0
    for row in range(len(ends)):
        end = ends[row]
        at = _head(data, start + _HEADER_BYTES, end, longs, flags, price, row)
        if at < 0:
            return _UNREADABLE, row, 0
        there, at = _present(data, at, end)
        if there < 0:
            return _UNREADABLE, row, 0
        flags[row, _HAS_EMBEDDING] = there == 1
        if there:
            begin, at = _span(data, at, end)
            if at < 0:
                return _UNREADABLE, row, 0
            if at - begin != embedding.shape[1]:
                return _EMBEDDING, row, at - begin
            embedding[row] = data[begin:at]
        at, found = _map(data, at, end, row, names, amounts, found)
        if at == -2:
            return _FULL, row, found
        if at < 0:
            return _UNREADABLE, row, 0
        there, at = _present(data, at, end)
        begin, behind = at, at
        if there > 0:
            begin, behind = _span(data, at, end)
        if there < 0 or behind < 0:
            return _UNREADABLE, row, 0
        name, at = _span(data, behind, end)
        if at != end:
            return _UNREADABLE, row, 0
        usable = there == 1 and _is(data, name, at, version)
        flags[row, _HAS_SIGNATURE] = usable
        if usable:
            if behind - begin != signature.shape[1]:
                return _SIGNATURE, row, behind - begin
            signature[row] = data[begin:behind]
        start = end
    return _GOOD, len(ends), found


decoded_items([], RowFormat(1, 8, ""))
#: Seconds that it took to compile all this, or to find it compiled.
COMPILE_S: Final = time.perf_counter() - _COMPILING
