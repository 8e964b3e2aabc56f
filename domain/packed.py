"""Numbers in byte arrays, compiled: little-endian words at any place, and the variable-length integers of Avro.

A varint holds seven bits a byte, lowest first, with the eighth bit set on all but the last. A long is a varint of its
zigzag form (0, -1, 1, -2, ... are 0, 1, 2, 3, ...), as in Avro's binary encoding. Readers without a compiler have
sequence.py for the same.

Functions of the fold compile without reference counts (`_nrt`): counting those of each array that is passed on costs
more than the work. So nothing is allocated, and the caller keeps every array. Bounds are the caller's too: nothing is
checked.
"""

from __future__ import annotations

from typing import Any, Final

import numba
from numba.core import cgutils, types
from numba.extending import intrinsic

from domain.compiled import njit

__all__ = [
    "LONGEST_VARINT",
    "insert",
    "load_f64",
    "load_i64",
    "load_u16",
    "load_u32",
    "move",
    "read_long",
    "read_varint",
    "skip_varints",
    "store_f64",
    "store_i64",
    "store_u16",
    "store_u32",
    "unzigzag",
    "write_long",
    "write_varint",
]

#: Bytes of a varint at most.
LONGEST_VARINT: Final = 10


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [at])


def _loader(kind: Any) -> Any:
    @intrinsic
    def load(_context: Any, buffer: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], *args)
            value = builder.load(builder.bitcast(pointer, context.get_value_type(kind).as_pointer()))
            value.align = 1
            return value

        return kind(buffer, types.intp), generate

    return load


def _storer(kind: Any) -> Any:
    @intrinsic
    def store(_context: Any, buffer: Any, at: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], *args[:2])
            stored = builder.store(args[2], builder.bitcast(pointer, context.get_value_type(kind).as_pointer()))
            stored.align = 1
            return context.get_dummy_value()

        return types.void(buffer, types.intp, kind), generate

    return store


load_u16, load_u32, load_i64, load_f64 = map(_loader, (types.uint16, types.uint32, types.int64, types.float64))
store_u16, store_u32, store_i64, store_f64 = map(_storer, (types.uint16, types.uint32, types.int64, types.float64))


@intrinsic
def move(_context: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """Copy `count` bytes of `source` behind `at` to `target` behind `to`; they may overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = _pointer(context, builder, signature.args[0], args[0], args[1])
        at = _pointer(context, builder, signature.args[2], args[2], args[3])
        cgutils.raw_memmove(builder, to, at, args[4], itemsize=1)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), generate


@njit(_nrt=False)
def insert(buffer: Any, at: int, used: int, count: int) -> int:
    """Make room for `count` bytes at a place among the `used` ones; the number used then."""
    move(buffer, at + count, buffer, at, used - at)
    return used + count


@njit(_nrt=False)
def read_varint(buffer: Any, at: int) -> tuple[Any, int]:
    """A varint (uint64), and the place behind it."""
    value, shift = numba.uint64(0), numba.uint64(0)
    while buffer[at] & 128:
        value |= numba.uint64(buffer[at] & 127) << shift
        shift += numba.uint64(7)
        at += 1
    return value | numba.uint64(buffer[at]) << shift, at + 1


@njit(_nrt=False)
def write_varint(buffer: Any, at: int, value: Any) -> int:
    """Write a uint64; the place behind it."""
    while value > numba.uint64(127):
        buffer[at] = numba.uint8(value) | numba.uint8(128)
        value >>= numba.uint64(7)
        at += 1
    buffer[at] = numba.uint8(value)
    return at + 1


@njit(_nrt=False)
def unzigzag(value: Any) -> Any:
    """The int64 whose zigzag form this is."""
    return numba.int64(value >> numba.uint64(1)) ^ -numba.int64(value & numba.uint64(1))


@njit(_nrt=False)
def read_long(buffer: Any, at: int) -> tuple[Any, int]:
    """A long, and the place behind it."""
    value, at = read_varint(buffer, at)
    return unzigzag(value), at


@njit(_nrt=False)
def write_long(buffer: Any, at: int, value: Any) -> int:
    """Write an int64; the place behind it."""
    return write_varint(buffer, at, numba.uint64((value << 1) ^ (value >> 63)))


@njit(_nrt=False)
def skip_varints(buffer: Any, at: int, count: int) -> int:
    """The place behind so many varints."""
    while count:
        count -= buffer[at] < 128
        at += 1
    return at
