"""The compiled rule of duplicates is that of duplicates.py; the fold as a whole is tested in test_user_state.py."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.duplicates import find_duplicates
from domain.user_state import EventBatch, fold
from schemas.codec import codec


@given(st.lists(st.integers(0, 50), min_size=1, max_size=150))
def test_duplicates_are_those_of_the_array_form(ids) -> None:
    """Training, which finds duplicates in a whole log at once, drops exactly the events that the fold drops."""
    event_id = np.array(ids, dtype=np.int64)
    none = np.zeros_like(event_id)
    place = np.arange(len(ids))
    batch = EventBatch(place, event_id, none, place, none, none.astype("u1"), none, none > 0, none * np.nan)
    folded = fold({}, batch, 1)
    repeated = find_duplicates([b""], event_id, none)
    assert folded.duplicates == repeated.sum()
    assert codec("user_head").decode(folded.heads[0])["event_ids"] == event_id[~repeated][-32:].tobytes()
