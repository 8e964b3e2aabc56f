"""Numbers in byte arrays: any place, any size, and the bytes that Avro writes."""

from __future__ import annotations

import io
import struct

import fastavro
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.packed import (
    insert,
    read_long,
    read_varint,
    skip_varints,
    unzigzag,
    write_long,
    write_varint,
)
from domain.tile_kernel import place_of

int64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)


@given(st.lists(int64, min_size=1, max_size=20), st.integers(0, 9))
def test_longs_are_avros(values, start) -> None:
    """Written from any place on, longs are byte for byte what Avro's library writes, and read back in turn."""
    buffer, at = np.zeros(300, dtype=np.uint8), start
    for value in values:
        at = write_long(buffer, at, np.int64(value))
    out = io.BytesIO()
    for value in values:
        fastavro.schemaless_writer(out, {"type": "long"}, value)
    assert buffer[start:at].tobytes() == out.getvalue()
    found, place = [], start
    for _ in values:
        value, place = read_long(buffer, place)
        found.append(int(value))
    assert (found, place) == (values, at)
    assert skip_varints(buffer, start, len(values)) == at


@given(st.integers(0, 2**64 - 1))
def test_varints_hold_64_bits(value) -> None:
    """Any uint64 comes back, from ten bytes at most; zigzag's inverse is Avro's."""
    buffer = np.zeros(10, dtype=np.uint8)
    end = write_varint(buffer, 0, np.uint64(value))
    assert read_varint(buffer, 0) == (value, end)
    assert int(unzigzag(np.uint64(value))) == (value >> 1 if value % 2 == 0 else -(value >> 1) - 1)


@given(st.lists(st.integers(0, 65_535), unique=True, max_size=30), st.integers(0, 65_535))
def test_entries_are_found_and_make_room(cells, cell) -> None:
    """Bisection finds the first entry that is not smaller, and inserting there moves what follows."""
    held = b"".join(struct.pack("<HI", each, each * 7) for each in sorted(cells))
    buffer = np.concatenate([np.frombuffer(held, dtype=np.uint8), np.zeros(6, dtype=np.uint8)])
    at = place_of(buffer, 6, len(held), cell)
    assert at == 6 * sum(each < cell for each in cells)
    assert insert(buffer, at, len(held), 6) == len(held) + 6
    assert buffer[:at].tobytes() + buffer[at + 6 :].tobytes() == held
