from __future__ import annotations

import struct
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from schemas.errors import Unavailable
from serving.local_tables import CHANGELOG_OFFSET_KEY, LocalTable, find_tables
from serving.store import TablePartition


def write(path: Path, rows: dict[bytes, bytes], offset: int | None) -> Rdict:
    """A store as a worker writes it, still open."""
    store = Rdict(str(path), Options(raw_mode=True))
    for key, value in rows.items():
        store.put(key, value)
    if offset is not None:
        store.put(CHANGELOG_OFFSET_KEY, struct.pack(">q", offset))
    return store


def test_a_table_is_read_while_its_worker_writes_it(tmp_path) -> None:
    """Rows and offset are those of one moment, although the writer holds the store open and goes on."""
    rows = {index.to_bytes(8, "big"): b"v" * 100 for index in range(20_000)}
    writer = write(tmp_path / "users-0.db", rows, 41)
    table = LocalTable(tmp_path / "users-0.db")
    writer.put(b"later...", b"x")
    found = {}
    for keys, values in table.chunks():
        assert len(keys) <= 8192
        found.update(zip(keys, values, strict=True))
    assert found == rows
    assert table.changelog_offset == 41
    table.close()
    writer.close()


def test_of_several_copies_the_one_that_is_furthest_is_taken(tmp_path) -> None:
    """A partition left behind by an earlier assignment, and stores without an offset, are passed over."""
    for worker, name, offset in [
        ("w1", "users-0", 10), ("w2", "users-0", 12), ("w3", "users-0", 11), ("w1", "items-1", 0),
        ("w2", "items-0", None), ("w1", "other-0", 5), ("w1", "n2o_a-7", 5),
    ]:  # fmt: skip
        (tmp_path / worker).mkdir(exist_ok=True)
        write(tmp_path / worker / f"{name}.db", {}, offset).close()
    found = find_tables(tmp_path, partitions=2)
    assert {at: (each.path.parent.name, each.changelog_offset) for at, each in found.items()} == {
        TablePartition("users", 0): ("w2", 12),
        TablePartition("items", 1): ("w1", 0),
    }


def test_a_broken_store_is_left_out(tmp_path) -> None:
    """What cannot be opened is no reason not to serve: its changelog is read instead."""
    folder = tmp_path / "w1" / "users-0.db"
    folder.mkdir(parents=True)
    (folder / "CURRENT").write_text("MANIFEST-000042\n")
    assert find_tables(tmp_path, partitions=1) == {}
    with pytest.raises(Unavailable, match=r"users-0\.db cannot be opened"):
        LocalTable(folder)
