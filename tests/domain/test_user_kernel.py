"""The compiled rule of duplicates is that of duplicates.py; the fold as a whole is tested in test_user_state.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.duplicates import find_duplicates
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.errors import Corrupt


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


@given(st.integers(1, 60), st.data())
def test_a_damaged_row_is_refused_and_not_read_beyond_its_end(events: int, data: st.DataObject) -> None:
    """A row cut short, or with bytes behind it, is Corrupt: compiled code has no bounds of its own."""
    places = np.arange(events, dtype=np.int64)
    none = np.zeros_like(places)
    batch = EventBatch(places, places, none, places, places * 1000, none.astype("u1"), none, none > 0, none * np.nan)
    row = fold({}, batch, 1).heads[0]
    last = EventBatch(*(column[-1:] for column in vars(batch).values()))
    assert fold({0: row}, last, 1).replayed == 1
    cut = data.draw(st.integers(0, len(row) - 1))
    for damaged in (row[:cut], row + b"\0"):
        if damaged:  # an empty row is none
            with pytest.raises(Corrupt):
                fold({0: damaged}, last, 1)
