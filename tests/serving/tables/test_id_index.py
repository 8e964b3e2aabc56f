from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.tables.id_index import IdIndex, entries_for

HEADER = np.zeros(16, dtype=np.int64)


def table(ids: int = 0) -> IdIndex:
    """An empty index for so many ids."""
    return IdIndex(np.zeros((entries_for(ids), 2), dtype=np.int64))


def array(ids) -> np.ndarray:
    """Ids as an index takes them."""
    return np.array(list(ids), dtype=np.int64)


ids = st.lists(st.integers(-40, 40) | st.sampled_from([2**63 - 1, -(2**63)]), unique=True, max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), ids), max_size=20))
def test_equals_a_dict(operations) -> None:
    """After any insertions, moves and removals, ids are found where a dict has them, old slots are told, none else."""
    index, oracle, next_slot = table(), {}, 0
    for removing, batch in operations:
        slots = [-1] * len(batch) if removing else list(range(next_slot, next_slot + len(batch)))
        next_slot += len(batch)
        before = index.publish(HEADER, array(batch), array(slots))
        assert sorted(before.tolist()) == sorted(oracle[each] for each in batch if each in oracle)
        for each, slot in zip(batch, slots, strict=True):
            oracle.pop(each, None)
            if not removing:
                oracle[each] = slot
    asked = array([*range(-41, 42), 2**63 - 1, -(2**63)])
    assert index.find(asked).tolist() == [oracle.get(each, -1) for each in asked.tolist()]
    assert dict(zip(*(each.tolist() for each in index.live()), strict=True)) == oracle
    assert HEADER[0] % 2 == 0


def test_ids_that_collide_are_all_found() -> None:
    """A table at its highest load, half full, finds all its ids and nothing else."""
    index = table(1000)
    many = np.arange(1024, dtype=np.int64) * 2**40
    assert index.fits(many) and not index.fits(np.arange(1025))
    index.publish(HEADER, many, np.arange(1024))
    assert (index.find(many) == np.arange(1024)).all()
    assert (index.find(many + 1) == -1).all()
    assert not index.fits(array([7]))


def test_an_id_keeps_its_entry() -> None:
    """Ids that come and go use one entry each, so that a reader never finds one id's slot under another's."""
    index = table()
    batch = np.arange(300, dtype=np.int64)
    for turn in range(50):
        index.publish(HEADER, batch, batch + turn)
        index.publish(HEADER, batch, np.full(300, -1))
    assert index.fits(np.arange(512 - 300))
    assert (index.find(batch) == -1).all()
