"""Partitions are Kafka's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from domain.partitioner import partition_of, partitions_of
from schemas.ids import entity_key

int64s = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(int64s, max_size=50), st.integers(1, 1_000))
def test_equals_the_default_partitioner(entities, partitions) -> None:
    """Every id goes where Kafka's default partitioner sends its key."""
    expected = [(murmur2(entity_key(entity)) & 0x7FFFFFFF) % partitions for entity in entities]
    assert partitions_of(np.array(entities, dtype=np.int64), partitions).tolist() == expected


@given(int64s, st.integers(1, 64))
def test_one_equals_many(entity, partitions) -> None:
    """A single id goes where it goes in a batch."""
    assert partition_of(entity, partitions) == partitions_of(np.array([entity, 1]), partitions)[0]


def test_known_partitions() -> None:
    """Fixed values: a change here would move every entity of a running deployment."""
    assert partitions_of(np.array([0, 1, 2, -1, 2**63 - 1]), 12).tolist() == [11, 0, 0, 5, 8]


def test_partitions_are_even() -> None:
    """Consecutive ids spread over all partitions within a tenth of their share."""
    counts = np.bincount(partitions_of(np.arange(64_000), 16), minlength=16)
    assert abs(counts - 4_000).max() < 400
