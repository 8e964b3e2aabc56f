"""One packed behaviour; sequences of them are tested in test_sequence.py."""

from __future__ import annotations

import numpy as np
import pytest

from domain.sequence import unpacked_behaviours
from domain.sequence_kernel import BEHAVIOUR_BYTES, write_behaviour

WORD = np.zeros(8, dtype=np.uint8)


def _written(item: int, time: int, action: int, category: int, has_category: bool, value: float) -> bytes:
    out = np.zeros(BEHAVIOUR_BYTES, dtype=np.uint8)
    used = write_behaviour(
        out, 0, np.int64(item), np.int64(time), action, np.int64(category), has_category, value, WORD
    )
    return out[:used].tobytes()


@pytest.mark.parametrize(
    "behaviour",
    [(5, 7, 2, 3, True, np.nan), (-1, -(2**52), 13, -(2**63), True, -0.0), (2**63 - 1, 2**52, 0, 0, False, 12.5)],
)
def test_a_behaviour_is_read_as_it_was_written(behaviour) -> None:
    """Of any size and sign, in at most 41 bytes; no value and no category are not zero."""
    packed = _written(*behaviour)
    assert len(packed) <= BEHAVIOUR_BYTES == 41
    (told,) = unpacked_behaviours(packed).tolist()
    item, time, action, category, has_category, value = behaviour
    assert (told[0], told[1], told[2], told[4], told[5]) == (item, time, category, has_category, action)
    assert np.float64(told[3]).tobytes() == np.float64(value).tobytes()


def test_small_numbers_are_short() -> None:
    """A click on one of 100,000 items a minute after the last one takes nine bytes; a round price one more."""
    assert len(_written(60_000, 60_000, 2, 40, True, np.nan)) == 9
    assert len(_written(60_000, 60_000, 2, 40, True, 12.5)) == 10
