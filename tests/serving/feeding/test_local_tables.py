from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from schemas.deployment import Deployment
from schemas.errors import Unavailable
from serving.feeding.local_tables import CHANGELOG_OFFSET_KEY, LocalTable, find_tables
from serving.tables.store import TablePartition


def write(path: Path, rows: dict[bytes, bytes], offset: int | None) -> Rdict:
    """A store as a worker writes it, still open."""
    store = Rdict(str(path), Options(raw_mode=True))
    for key, value in rows.items():
        store.put(key, value)
    if offset is not None:
        store.put(CHANGELOG_OFFSET_KEY, struct.pack(">q", offset))
    return store


def describe(worker: Path, group: str = "aif", partitions: int = 2) -> None:
    """What a worker's folder says of its tables."""
    worker.mkdir(exist_ok=True)
    (worker / "worker.json").write_text(json.dumps({"group": group, "partitions": partitions}))


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
        describe(tmp_path / worker)
        write(tmp_path / worker / f"{name}.db", {}, offset).close()
    found = find_tables(tmp_path, Deployment(partitions=2))
    assert {at: (each.path.parent.name, each.changelog_offset) for at, each in found.items()} == {
        TablePartition("users", 0): ("w2", 12),
        TablePartition("items", 1): ("w1", 0),
    }


def test_a_broken_store_is_left_out(tmp_path) -> None:
    """What cannot be opened is no reason not to serve: its changelog is read instead."""
    folder = tmp_path / "w1" / "users-0.db"
    folder.mkdir(parents=True)
    describe(tmp_path / "w1")
    (folder / "CURRENT").write_text("MANIFEST-000042\n")
    assert find_tables(tmp_path, Deployment(partitions=2)) == {}
    with pytest.raises(Unavailable, match=r"users-0\.db cannot be opened"):
        LocalTable(folder)


def test_tables_of_other_deployments_are_left_out(tmp_path) -> None:
    """Only folders whose worker.json has the server's group and partition count are read; no broken one is."""
    for name, group, partitions in [("a", "other-aif", 2), ("b", "aif", 4), ("c", "aif", 2)]:
        describe(tmp_path / name, group, partitions)
        write(tmp_path / name / "users-0.db", {}, 50 if group == "other-aif" or partitions == 4 else 7).close()
    for name, text in [("d", "not json"), ("e", None)]:
        (tmp_path / name).mkdir()
        write(tmp_path / name / "users-0.db", {}, 99).close()
        if text:
            (tmp_path / name / "worker.json").write_text(text)
    found = find_tables(tmp_path, Deployment(partitions=2))
    assert {each.path.parent.name for each in found.values()} == {"c"}


def test_reading_a_table_changes_no_file_of_its_worker(tmp_path) -> None:
    """Neither looking for tables nor reading one writes into the folder, its rocksdict-config.json included."""
    describe(tmp_path / "w")
    path = tmp_path / "w" / "users-0.db"
    write(path, {b"k": b"v"}, 3).close()
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    [found] = find_tables(tmp_path, Deployment(partitions=2)).values()
    table = LocalTable(found.path)
    assert list(table.chunks()) == [([b"k"], [b"v"])]
    table.close()
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before


def test_a_table_that_cannot_be_read_to_its_end_says_so(tmp_path) -> None:
    """A damaged block is Unavailable: rows behind it must not be taken for rows that are not there."""
    path = tmp_path / "users-0.db"
    write(path, {index.to_bytes(8, "big"): b"v" * 100 for index in range(20_000)}, 3).close()
    for file in path.glob("*.sst"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
        file.write_bytes(bytes(data))
    table = LocalTable(path)
    with pytest.raises(Unavailable, match=r"users-0\.db is damaged"):
        list(table.chunks())
    table.close()
