from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.id_index import IdIndex

# Few ids, extremes among them, so that operations meet each other.
ids = st.one_of(st.integers(-40, 40), st.sampled_from([2**63 - 1, -(2**63), 2**32, -(2**32)]))
steps = st.lists(st.tuples(st.booleans(), st.lists(ids, unique=True, max_size=30)), max_size=20)


def array(values) -> np.ndarray:
    """Ids as an array."""
    return np.array(list(values), dtype=np.int64)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_equals_a_dict(operations) -> None:
    """After any inserts and removals, every id finds what a dict holds of it."""
    index, oracle, slot = IdIndex(), {}, 0
    for inserting, batch in operations:
        if inserting:
            new = [each for each in batch if each not in oracle]
            slots = list(range(slot, slot + len(new)))
            slot += len(new)
            index.insert(array(new), array(slots))
            oracle.update(zip(new, slots, strict=True))
        else:
            removed = index.remove(array(batch))
            assert sorted(removed.tolist()) == sorted(oracle.pop(each) for each in batch if each in oracle)
        assert len(index) == len(oracle)
    asked = array([*range(-41, 42), 2**63 - 1, -(2**63)])
    assert index.find(asked).tolist() == [oracle.get(each, -1) for each in asked.tolist()]
    assert index.grown(10).find(asked).tolist() == index.find(asked).tolist()


def test_ids_that_collide_are_all_found() -> None:
    """A table at its highest load, half full, finds all its ids and nothing else."""
    index = IdIndex(1000)
    many = np.arange(1024, dtype=np.int64) * 2**40
    assert index.fits(len(many)) and not index.fits(len(many) + 1)
    index.insert(many, np.arange(1024))
    assert (index.find(many) == np.arange(1024)).all()
    assert (index.find(many + 1) == -1).all()


def test_removed_entries_do_not_fill_the_table_for_ever() -> None:
    """Growing forgets removed entries, so ids that come and go do not make the table larger."""
    index = IdIndex()
    for turn in range(50):
        batch = np.arange(turn * 300, (turn + 1) * 300, dtype=np.int64)
        if not index.fits(len(batch)):
            index = index.grown(len(batch))
        index.insert(batch, batch)
        index.remove(batch)
    assert len(index) == 0
    assert index.nbytes <= 2048 * 16
