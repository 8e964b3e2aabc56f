from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.n2o import Flag, N2OLayout
from serving.slab import Slab

LAYOUT = N2OLayout(4, 3, 64)
TAG = 7


def rows(ids, generation: int = 0, flags: int = 0) -> np.ndarray:
    """Rows whose offset field says when they were written."""
    records = LAYOUT.empty(len(ids))
    records["item_id"], records["version"] = ids, TAG
    records["source_offset"], records["flags"] = generation, flags
    return records.view(np.uint8).reshape(len(ids), -1)


def read(slab: Slab, ids) -> list[int | None]:
    """Generation of each id's row, None where there is none."""
    out = np.empty((len(ids), LAYOUT.stride), dtype=np.uint8)
    known = slab.gather(np.array(ids, dtype=np.int64), out)
    records = out.view(LAYOUT.dtype)[:, 0]
    assert (records["item_id"] == np.where(known, ids, 0)).all()
    assert not out[~known].any()
    return [int(row["source_offset"]) if is_known else None for row, is_known in zip(records, known, strict=True)]


ids = st.lists(st.integers(-20, 20), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "delete", "put deleted"]), ids), max_size=15))
def test_equals_a_dict(operations) -> None:
    """After any puts, with repeated ids, and deletes, rows and the servable count are those of a dict."""
    slab, oracle = Slab(TAG, LAYOUT.stride, capacity=8), {}
    for generation, (what, batch) in enumerate(operations):
        if what == "delete":
            slab.delete(np.array(batch, dtype=np.int64))
            for each in batch:
                oracle.pop(each, None)
        else:
            flags = Flag.DELETED if what == "put deleted" else 0
            slab.put(rows(batch, generation, flags))
            oracle.update(dict.fromkeys(batch, (generation, flags)))
    asked = list(range(-21, 22))
    assert read(slab, asked) == [oracle[each][0] if each in oracle else None for each in asked]
    assert len(slab) == len(oracle)
    assert slab.servable == sum(not flags for _, flags in oracle.values())


def test_the_last_of_equal_ids_in_a_batch_wins() -> None:
    """Rows of one batch are applied in their order, also across the chunks that it is written in."""
    slab = Slab(TAG, LAYOUT.stride)
    batch = np.concatenate([rows([5, 6], 1), rows(list(range(10, 2000)), 2), rows([5], 3)])
    slab.put(batch)
    assert read(slab, [5, 6, 10, 1999]) == [3, 1, 2, 2]


def test_memory_is_bounded_by_what_it_holds() -> None:
    """Deleted rows' places are used again: a catalogue that turns over does not grow."""
    slab = Slab(TAG, LAYOUT.stride)
    slab.put(rows(list(range(1000))))
    before = slab.nbytes
    for turn in range(1, 30):
        slab.delete(np.arange((turn - 1) * 1000, turn * 1000))
        slab.put(rows(list(range(turn * 1000, (turn + 1) * 1000))))
    assert len(slab) == 1000
    assert slab.nbytes <= 2 * before


@pytest.fixture
def _eager_thread_switches():
    """Threads change places every 10 us, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_thread_switches")
def test_no_row_is_ever_torn() -> None:
    """While a writer rewrites, deletes and grows, every row that readers copy is wholly one of those written."""
    layout = N2OLayout(500, 8, 64)
    slab, stop, torn = Slab(TAG, layout.stride, capacity=64), threading.Event(), []
    ids = np.arange(2000, dtype=np.int64)

    def written(generation: int) -> np.ndarray:
        records = layout.empty(len(ids))
        records["item_id"], records["version"] = ids, TAG
        records["vector"] = generation % 60_000
        records["source_offset"] = generation % 60_000
        return records.view(np.uint8).reshape(len(ids), -1)

    def reading() -> None:
        out = np.empty((300, layout.stride), dtype=np.uint8)
        rng = np.random.default_rng()
        while not stop.is_set():
            asked = rng.choice(ids, 300)
            known = slab.gather(asked, out)
            records = out.view(layout.dtype)[:, 0]
            whole = (records["vector"] == records["source_offset"][:, None]).all(axis=1)
            torn.extend(asked[known & ~(whole & (records["item_id"] == asked))].tolist())

    readers = [threading.Thread(target=reading) for _ in range(3)]
    for reader in readers:
        reader.start()
    until = time.monotonic() + 1.5
    generation = 0
    while time.monotonic() < until:
        generation += 1
        slab.put(written(generation))
        if generation % 3 == 0:
            slab.delete(ids[::2])
    stop.set()
    for reader in readers:
        reader.join()
    assert generation > 20
    assert not torn


def test_four_thousand_candidates_are_looked_up_well_under_a_millisecond() -> None:
    """The id lookup of a large request costs less than a millisecond out of 200,000 rows."""
    slab = Slab(TAG, LAYOUT.stride)
    everything = np.random.default_rng(0).permutation(600_000)[:200_000]
    slab.put(rows(everything))
    out = np.empty((4000, LAYOUT.stride), dtype=np.uint8)
    spent = []
    for seed in range(30):
        asked = np.random.default_rng(seed).choice(everything, 4000)
        start = time.perf_counter()
        assert slab.gather(asked, out).all()
        spent.append(time.perf_counter() - start)
    assert min(spent) < 1e-3
