"""What leaves a head enters the category index; chunks are tested in test_sequence.py."""

from __future__ import annotations

import numpy as np

from domain.moving import move
from domain.sequence import BEHAVIOUR_DTYPE, INDEX_DTYPE

T0 = 1_700_000_000_000


def test_the_index_is_bounded_and_holds_the_last_of_the_heaviest_categories() -> None:
    """Eight categories of four behaviours at most; a category that came often recently stays, a rare old one goes."""
    log = np.zeros(4_000, dtype=BEHAVIOUR_DTYPE)
    log["item_id"], log["event_time_ms"], log["has_category"] = np.arange(4_000), T0 + np.arange(4_000) * 1000, True
    log["category_id"], log["action"] = np.random.default_rng(1).integers(0, 12, 4_000), np.arange(4_000) % 14
    log["category_id"][3_000:] = np.arange(1_000) % 3
    _, moved, index, _ = move(log.tobytes(), 0, b"", b"")
    rows = np.frombuffer(index, dtype=INDEX_DTYPE)
    assert len(index) <= 8 * INDEX_DTYPE.itemsize == 704
    for category in range(3):
        row = rows[rows["category_id"] == category][0]
        of_category = log[:moved][log["category_id"][:moved] == category][-4:]
        assert row["used"] == 4
        for name in ("item_id", "event_time_ms", "action"):
            assert row[name].tolist() == of_category[name].tolist()
