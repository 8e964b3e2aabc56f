"""Workers' tables on disk, as their readers find them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from schemas.errors import Corrupt
from schemas.stores_on_disk import (
    CHANGELOG_ID_KEY,
    CHANGELOG_OFFSET_KEY,
    WORKER_FILE,
    StoreSnapshot,
    logs_seen,
    number_of,
    packed_number,
    packed_place,
    rows_of,
    store_name,
    worker_stores,
)


def _written(path: Path, rows: dict[bytes, bytes]) -> Rdict:
    path.parent.mkdir(parents=True, exist_ok=True)
    store = Rdict(str(path), Options(raw_mode=True))
    for key, value in rows.items():
        store.put(key, value)
    return store


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63)])
def test_numbers_of_the_stores_own_keys_are_int64(number: int) -> None:
    """Offsets and topic ids survive their eight bytes."""
    assert number_of(packed_number(number)) == number
    assert len(packed_number(number)) == 8
    assert (number_of(packed_place(number, 7)), logs_seen(packed_place(number, 7))) == (number, 7)
    assert logs_seen(packed_number(number)) == 0


def test_a_workers_stores_are_those_that_are_tables(tmp_path: Path) -> None:
    """Folders named as tables are found with their worker's group; what was set aside and strangers are not."""
    (tmp_path / WORKER_FILE).write_text(json.dumps({"group": "g", "partitions": 4}))
    names = [store_name("users", 10), store_name("users", 2), "users-2.db.damaged-1", "other-0.db", "items-x.db"]
    for name in names:
        (tmp_path / name).mkdir()
    found = worker_stores(tmp_path)
    assert [(each.table, each.partition, each.group, each.partitions) for each in found] == [
        ("users", 2, "g", 4), ("users", 10, "g", 4),
    ]  # fmt: skip


def test_a_folder_that_says_nothing_is_corrupt(tmp_path: Path) -> None:
    """A description without group or partitions is refused with its path."""
    (tmp_path / WORKER_FILE).write_text("{}")
    with pytest.raises(Corrupt, match=WORKER_FILE):
        worker_stores(tmp_path)


def test_a_snapshot_leaves_the_stores_own_keys_out_and_the_folder_alone(tmp_path: Path) -> None:
    """Rows are the table's, offset and topic id are read apart, and no file of the folder is touched."""
    rows = {b"a": b"1", b"watermark": b"m"}
    own = {CHANGELOG_OFFSET_KEY: packed_number(8), CHANGELOG_ID_KEY: packed_number(-3)}
    writer = _written(tmp_path / "users-0.db", {**rows, **own})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "users-0.db").iterdir()}
    with StoreSnapshot(tmp_path / "users-0.db") as snapshot:
        assert dict(snapshot.all_rows()) == rows
        assert (snapshot.changelog_offset, snapshot.changelog_id, snapshot.get(b"b")) == (8, -3, None)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "users-0.db").iterdir()} == before
    writer.close()


def test_rows_begin_after_a_key_and_end_with_an_error_where_files_are_damaged(tmp_path: Path) -> None:
    """Keys after a given one come in order; a block that cannot be read is an error, not the end."""
    keys = [number.to_bytes(8, "big") for number in range(2_000)]
    store = _written(tmp_path / "items-0.db", dict.fromkeys(keys, b"v" * 100))
    assert [key for key, _ in rows_of(store, keys[500])] == keys[501:]
    store.close()
    for path in (tmp_path / "items-0.db").glob("*.sst"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
    with StoreSnapshot(tmp_path / "items-0.db") as snapshot, pytest.raises(Corrupt, match=r"items-0\.db is damaged"):
        list(snapshot.all_rows())
