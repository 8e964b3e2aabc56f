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
from schemas.codec import codec
from schemas.errors import BadInput
from schemas.ids import WATERMARK_KEY, entity_key
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.tables.store import Store, TablePartition
from tests.serving.conftest import NOW_MS, SIZES, item_rows, n2o_records, n2o_rows, user_rows, watermark_row

OLD, NEW = 11, 22
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


def held(store: Store, tag: int, ids) -> dict[int, bytes]:
    """Rows of a version by id."""
    ids = np.array(list(ids), dtype=np.int64)
    if (slab := store.slab(tag)) is None:
        return {}
    out = np.empty((len(ids), SIZES.layout.stride), dtype=np.uint8)
    known = slab.gather(ids, out)
    return {each: row.tobytes() for each, row, is_known in zip(ids.tolist(), out, known, strict=True) if is_known}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from([OLD, NEW, None]), st.integers(0, 99)), max_size=20),
        max_size=6,
    )
)
def test_n2o_batches_equal_row_by_row(batches) -> None:
    """However rows of two versions and deletions are batched, each slab holds what applying one row at a time gives."""
    with opened() as (writer, store):
        oracle = _apply_both(writer, batches)
        for tag, rows in oracle.items():
            assert held(store, tag, range(13)) == rows
        assert not writer.refused


def _apply_both(writer: StoreWriter, batches) -> dict[int, dict[int, bytes]]:
    """Apply batches of (item, version or deletion, seed), and say what each version should then hold."""
    oracle: dict[int, dict[int, bytes]] = {OLD: {}, NEW: {}}
    for batch in batches:
        keys, values = [], []
        for item, tag, seed in batch:
            if tag is None:
                row = None
                for rows in oracle.values():
                    rows.pop(item, None)
            else:
                record = n2o_records(tag, [item], seed)
                row = n2o_rows(record)[1][0]
                oracle[tag][item] = record.tobytes()
            keys.append(entity_key(item))
            values.append(row)
        writer.apply(N2O, keys, values)
    return oracle


def test_rows_of_a_version_go_only_into_its_slab(writer) -> None:
    """A newer version's rows leave the older version's as they were."""
    store = writer.store
    old, new = n2o_records(OLD, range(50), 1), n2o_records(NEW, range(20), 2)
    writer.apply(N2O, *n2o_rows(old))
    writer.apply(N2O, *n2o_rows(new))
    assert held(store, OLD, range(60)) == {int(row["item_id"]): row.tobytes() for row in old}
    assert held(store, NEW, range(60)) == {int(row["item_id"]): row.tobytes() for row in new}


def test_rows_that_break_their_contract_are_counted_and_nothing_else(writer) -> None:
    """Damaged bytes, another item's record and odd lengths are refused by reason; the rest of the batch applies."""
    store = writer.store
    (good_key, *_), (good, other, *_) = n2o_rows(n2o_records(OLD, [1, 2, 3]))
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
    writer.apply(N2O, *n2o_rows(n2o_records(OLD, range(8))))
    assert store.coverage(OLD) == 0
    writer.apply(ITEMS, *item_rows(range(10)))
    assert store.coverage(OLD) == 0.8
    writer.apply(ITEMS, *item_rows([0, 1, 8], deleted=True))
    writer.apply(N2O, *n2o_rows(n2o_records(OLD, [0, 1], flags=Flag.DELETED)))
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
    """Rows of ever new versions cannot fill the memory: idle slabs go, kept ones never."""
    store = writer.store
    writer.apply(N2O, *n2o_rows(n2o_records(1, range(5))))
    writer.keep(frozenset({1}))
    for tag in range(2, 10):
        writer.apply(N2O, *n2o_rows(n2o_records(tag, range(5))))
        assert len(store.slabs) <= 4
    assert len(writer.slabs[1]) == 5
    assert 9 in store.slabs
    writer.drop([1])
    assert 1 not in store.slabs


def test_a_stride_that_differs_from_the_slabs_is_refused(writer) -> None:
    """A version's rows all have one size; asking for another says so."""
    writer.apply(N2O, *n2o_rows(n2o_records(OLD, range(5))))
    with pytest.raises(BadInput, match="bytes, its artifact says 256"):
        writer.slab(OLD, 256)
