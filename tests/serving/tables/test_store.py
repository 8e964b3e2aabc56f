from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.n2o import Flag
from domain.rollout import SLOTS
from schemas.codec import codec
from schemas.errors import BadInput
from schemas.ids import WATERMARK_KEY, entity_key
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.tables.store import SlabKey, Store, TablePartition
from tests.serving.conftest import NOW_MS, SIZES, item_rows, n2o_records, n2o_rows, user_rows, watermark_row

OLD, NEW = SlabKey("n2o_a", 11), SlabKey("n2o_a", 22)
N2O, ITEMS, USERS = (TablePartition(table, 0) for table in ("n2o_a", "items", "users"))


@contextmanager
def opened() -> Iterator[tuple[StoreWriter, Store]]:
    """An empty state, to write and to read."""
    with tempfile.TemporaryDirectory() as folder:
        store = StateFolder(Path(folder) / "serving").open_or_create()[1]
        yield StoreWriter(store), store
        store.close()


@pytest.fixture
def writer() -> Iterator[StoreWriter]:
    """Writes an empty state."""
    with opened() as (writer, _):
        yield writer


def held(store: Store, key: SlabKey, ids) -> dict[int, bytes]:
    """Rows of a slab by id."""
    ids = np.array(list(ids), dtype=np.int64)
    if (slab := store.slab(key)) is None:
        return {}
    out = np.empty((len(ids), SIZES.layout.stride), dtype=np.uint8)
    known = slab.gather(ids, out)
    return {each: row.tobytes() for each, row, is_known in zip(ids.tolist(), out, known, strict=True) if is_known}


TAGS = (11, 22)
_row = st.tuples(st.integers(0, 12), st.sampled_from([*TAGS, None]), st.integers(0, 99))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SLOTS[:2]), st.lists(_row, max_size=20), st.sampled_from(TAGS)), max_size=8))
def test_the_slabs_of_a_slot_are_the_slot(batches) -> None:
    """However rows of several versions and tombstones follow each other in the slots, and whatever is said to be fed
    meanwhile: a slab holds exactly the rows of its version that the slot's table has now, and an idle one goes when it
    is empty."""
    slots: dict[str, dict[int, tuple[int, bytes]]] = {slot: {} for slot in SLOTS[:2]}
    with opened() as (writer, store):
        for slot, rows, fed in batches:
            keys, values = [entity_key(item) for item, _, _ in rows], [_applied(slots[slot], *row) for row in rows]
            writer.apply(TablePartition(slot, 0), keys, values)
            writer.keep(frozenset({SlabKey(slot, fed)}))
            for name, held_now in slots.items():
                for tag in TAGS:
                    expected = {item: record for item, (its, record) in held_now.items() if its == tag}
                    assert held(store, SlabKey(name, tag), range(13)) == expected
            assert all(len(slab) or key == SlabKey(slot, fed) for key, slab in writer.slabs.items())
        assert not writer.refused


def _applied(slot: dict[int, tuple[int, bytes]], item: int, tag: int | None, seed: int) -> bytes | None:
    """Do to a slot's table what a row does; the row's value."""
    if tag is None:
        slot.pop(item, None)
        return None
    record = n2o_records(tag, [item], seed)
    slot[item] = tag, record.tobytes()
    return n2o_rows(record)[1][0]


def test_a_version_that_is_built_again_elsewhere_loses_nothing_to_its_old_slot(writer) -> None:
    """The tombstones that empty the slot that it had come from another topic, and may come late."""
    store, again = writer.store, SlabKey("n2o_b", OLD.tag)
    keys, values = n2o_rows(n2o_records(OLD.tag, range(9)))
    writer.apply(N2O, keys, values)
    writer.apply(TablePartition("n2o_b", 0), keys, values)
    writer.keep(frozenset({again}))
    writer.apply(N2O, keys, [None] * len(keys))
    writer.keep(frozenset({again}))
    assert len(held(store, again, range(9))) == 9
    assert list(store.slabs) == [again]


def test_rows_that_break_their_contract_are_counted_and_nothing_else(writer) -> None:
    """Damaged bytes, another item's record and odd lengths are refused by reason; the rest of the batch applies."""
    store = writer.store
    (good_key, *_), (good, other, *_) = n2o_rows(n2o_records(OLD.tag, [1, 2, 3]))
    odd = codec("n2o_row").encode({"record": bytes(100)})
    keys = [good_key, entity_key(9), entity_key(4), entity_key(5), entity_key(6)]
    values = [good, other, b"\xc3\x01" + bytes(len(good) - 2), odd, b"x"]
    writer.apply(N2O, keys, values)
    assert list(held(store, OLD, range(20))) == [1]
    assert writer.refused == {
        ("n2o_a", "wrong_item"): 1, ("n2o_a", "unknown_schema"): 1, ("n2o_a", "wrong_stride"): 1,
        ("n2o_a", "not_single_object"): 1,
    }  # fmt: skip
    writer.apply(ITEMS, [entity_key(1)], [b"?"])
    assert writer.refused["items", "not_single_object"] == 1


def test_coverage_counts_servable_rows_over_live_items(writer) -> None:
    """Deleted items leave both sides; without items nothing is covered."""
    store = writer.store
    assert store.coverage(OLD) == 0
    writer.apply(N2O, *n2o_rows(n2o_records(OLD.tag, range(8))))
    assert store.coverage(OLD) == 0
    writer.apply(ITEMS, *item_rows(range(10)))
    assert store.coverage(OLD) == 0.8
    writer.apply(ITEMS, *item_rows([0, 1, 8], deleted=True))
    writer.apply(N2O, *n2o_rows(n2o_records(OLD.tag, [0, 1], flags=Flag.DELETED)))
    assert store.coverage(OLD) == 6 / 7
    writer.apply(ITEMS, [entity_key(9)], [None])
    assert store.coverage(OLD) == 1.0
    assert store.items.get(5).title == "item 5"
    assert store.items.get(0) is None


def test_users_are_replaced_and_removed(writer) -> None:
    """The last row of a user counts, and None removes it."""
    store = writer.store
    assert store.users.head(4) is None
    writer.apply(USERS, *user_rows(4, [1, 2]))
    writer.apply(USERS, *user_rows(4, [1, 2, 3]))
    assert store.users.head(4)["counted"] == 3
    writer.apply(USERS, [entity_key(4)], [None])
    assert store.users.head(4) is None
    assert len(store.users) == 0


def test_watermarks_move_the_clock_and_are_no_rows(writer) -> None:
    """The event clock is the newest over the user tables' partitions, and the items' only without those."""
    store = writer.store
    assert store.event_clock_ms is None
    writer.apply(ITEMS, *watermark_row(NOW_MS + 5))
    assert store.event_clock_ms == NOW_MS + 5
    for partition, time_ms in enumerate((NOW_MS - 2, NOW_MS - 1, NOW_MS - 3)):
        marks = writer.apply(TablePartition("users", partition), *watermark_row(time_ms, oldest_append_time_ms=7))
        assert [mark["oldest_append_time_ms"] for mark in marks] == [7]
    assert store.event_clock_ms == NOW_MS - 1
    assert len(store.users) == 0
    assert writer.apply(USERS, [WATERMARK_KEY], [b"broken"]) == []
    assert writer.refused["users", "not_single_object"] == 1


def test_slabs_are_bounded_and_those_in_use_stay(writer) -> None:
    """Rows of ever new versions cannot take ever more files: the smallest idle ones go, those in use never."""
    store = writer.store
    writer.apply(N2O, *n2o_rows(n2o_records(OLD.tag, [0])))
    writer.keep(frozenset({OLD}))
    for tag in range(100, 120):
        writer.apply(N2O, *n2o_rows(n2o_records(tag, [tag, tag + 1000])))
        assert len(store.slabs) <= 12
    assert len(writer.slabs[OLD]) == 1
    assert SlabKey("n2o_a", 119) in store.slabs
    assert writer.most_slab_bytes >= sum(slab.nbytes for slab in writer.slabs.values()) / 3


def test_a_stride_that_differs_from_the_slabs_is_refused(writer) -> None:
    """A version's rows all have one size; asking for another says so."""
    writer.apply(N2O, *n2o_rows(n2o_records(OLD.tag, range(5))))
    with pytest.raises(BadInput, match="bytes, its artifact says 256"):
        writer.slab(OLD, 256)
