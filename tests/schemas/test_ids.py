"""Ids and keys."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import WATERMARK_KEY, entity_id, entity_ids, entity_key, entity_keys, hashed_id

int64s = st.integers(-(2**63), 2**63 - 1)


@given(int64s)
def test_a_key_is_its_id(entity) -> None:
    """Eight big-endian bytes, there and back."""
    key = entity_key(entity)
    assert key == entity.to_bytes(8, "big", signed=True)
    assert entity_id(key) == entity


@given(st.lists(int64s, max_size=20))
def test_many_equal_one_by_one(entities) -> None:
    """The vectorised forms agree with the single ones, none included."""
    keys = entity_keys(np.array(entities, dtype=np.int64))
    assert keys == [entity_key(entity) for entity in entities]
    assert entity_ids(keys).tolist() == entities


@given(st.text())
def test_a_hashed_id_is_the_signed_xxh3(original) -> None:
    """The id is xxh3-64 of the UTF-8 bytes, read as a signed number."""
    expected = struct.unpack(">q", xxhash.xxh3_64_digest(original.encode()))[0]
    assert hashed_id(original) == expected


def test_known_hashes() -> None:
    """Fixed values: a change here would rename every entity of every hashed source."""
    assert hashed_id("") == 3244421341483603138
    assert hashed_id("536365") == -8238968422339924634


@pytest.mark.parametrize("entity", [2**63, -(2**63) - 1])
def test_outside_int64(entity) -> None:
    """A number that is no int64 has no key."""
    with pytest.raises(struct.error):
        entity_key(entity)


@pytest.mark.parametrize("key", [b"", b"1234567", WATERMARK_KEY])
def test_a_key_of_another_length_is_no_id(key) -> None:
    """Only 8 bytes are an id; the watermark's key can never be one."""
    with pytest.raises(struct.error):
        entity_id(key)
