from __future__ import annotations

import numpy as np
import pytest

from domain.tiers import group_table, tier_values
from schemas.records import ACTION_CODES, ACTIONS


def test_a_group_holds_its_actions_and_no_others() -> None:
    """The table says of every action which groups count it; an action may be in several groups, or in none."""
    table = group_table((("click", "purchase"), ("click",), ()))
    assert table.shape == (len(ACTIONS), 3)
    assert table[ACTION_CODES["click"]].tolist() == [True, True, False]
    assert table[ACTION_CODES["purchase"]].tolist() == [True, False, False]
    assert table.sum() == 3
    with pytest.raises(KeyError, match="gaze"):
        group_table((("gaze",),))


def test_tier_values_are_log1p_of_counts() -> None:
    """Counts of any integer type and size enter as float32 log1p."""
    counts = np.array([0, 1, 255], dtype=np.uint8)
    assert tier_values(counts).dtype == np.float32
    np.testing.assert_allclose(tier_values(counts), np.log([1, 2, 256]), rtol=1e-6)
