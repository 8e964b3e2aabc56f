"""RocksDB stores."""

import random
import shutil
from pathlib import Path

import pytest

from schemas.codec import codec
from schemas.errors import Corrupt, Unavailable
from schemas.ids import WATERMARK_KEY, chunk_key, entity_key
from streams.store import Store


def test_rows_and_offset_survive_a_reopen(tmp_path: Path) -> None:
    """What put_many wrote is there after closing and opening, and so is the changelog offset."""
    store = Store(tmp_path / "t-0.db")
    assert store.changelog_offset == -1
    assert store.watermark is None
    store.put_many([(b"a", b"1"), (b"b", b"2")], 7)
    store.put_many([(b"a", None)], 9)
    store.close()
    store = Store(tmp_path / "t-0.db")
    assert store.get_many([b"a", b"b", b"c"]) == [None, b"2", None]
    assert store.changelog_offset == 9
    store.close()


def test_entity_keys_pages_through_rows_and_skips_the_rest(tmp_path: Path) -> None:
    """Paging by the last key sees every entity once, in key order, negative ids included, and no watermark row."""
    store = Store(tmp_path / "t-0.db")
    ids = [-5, -1, 0, 3, 2**62]
    mark = codec("watermark").encode(
        {
            "source_topic_id": 1,
            "next_source_offset": 2,
            "max_event_time_ms": 3,
            "oldest_append_time_ms": 4,
            "writer_epoch": 5,
            "wall_time_ms": 6,
        }
    )
    store.put_many([*((entity_key(entity), b"x") for entity in ids), (WATERMARK_KEY, mark)], 1)
    seen: list[bytes] = []
    while page := store.entity_keys(seen[-1] if seen else b"", 2):
        seen += page
    assert sorted(seen) == seen == sorted(map(entity_key, ids))
    assert store.watermark is not None
    assert store.watermark["next_source_offset"] == 2
    store.close()


def test_keys_of_all_rows_include_chunks_and_nothing_of_the_store(tmp_path: Path) -> None:
    """What empties a table finds heads and chunks, and neither the watermark nor the store's own rows."""
    store = Store(tmp_path / "t-0.db")
    store.be_copy_of(7)
    keys = [entity_key(1), chunk_key(1, 0), chunk_key(1, 1), entity_key(2), entity_key(-1), chunk_key(-1, 0)]
    store.put_many([*((key, b"x") for key in keys), (WATERMARK_KEY, b"mark")], 1)
    assert store.row_keys(100) == sorted(keys)
    assert store.row_keys(2) == sorted(keys)[:2]
    assert store.entity_keys(b"", 100) == [entity_key(1), entity_key(2), entity_key(-1)]
    store.close()


def test_a_folder_in_use_is_refused_as_unavailable(tmp_path: Path) -> None:
    """A second opening of the same folder says that another process has it."""
    store = Store(tmp_path / "t-0.db")
    with pytest.raises(Unavailable, match="in use"):
        Store(tmp_path / "t-0.db")
    store.close()


@pytest.mark.parametrize("victim", ["CURRENT", "*.sst"])
def test_a_damaged_folder_is_set_aside_and_begins_empty(tmp_path: Path, victim: str) -> None:
    """A store whose files are garbage is moved aside, not deleted, and opens empty for recovery to fill."""
    folder = tmp_path / "t-0.db"
    store = Store(folder)
    store.put_many([(b"a", b"1" * 5000)], 1)
    store.close()
    for path in folder.glob(victim):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"garbage" * (1 + len(data) // 14))
    store = Store(folder)
    assert store.changelog_offset == -1
    assert store.get_many([b"a"]) == [None]
    assert (tmp_path / "t-0.db.damaged-1").is_dir()
    store.close()


def test_damage_found_while_reading_is_remembered_for_the_next_start(tmp_path: Path) -> None:
    """A block whose checksum fails raises Corrupt, and the next opening begins empty instead of failing for ever."""
    folder = tmp_path / "t-0.db"
    store = Store(folder)
    store.put_many([(bytes([i]) * 8, bytes([i]) * 5000) for i in range(50)], 1)
    store.close()
    for path in folder.glob("*.sst"):
        data = bytearray(path.read_bytes())
        data[40] ^= 0xFF
        path.write_bytes(bytes(data))
    store = Store(folder)
    with pytest.raises(Corrupt, match="damaged"):
        store.get_many([bytes([0]) * 8])
    store.close()
    store = Store(folder)
    assert store.changelog_offset == -1
    store.close()


def _all_keys(store: Store) -> list[bytes]:
    """Every entity key, page by page, as a rebuild reads them."""
    found: list[bytes] = []
    while page := store.entity_keys(found[-1] if found else b"", 700):
        found += page
    return found


def _damage(file: Path, chance: random.Random) -> None:
    """Flips a bit, overwrites 64 bytes or cuts the file, near its beginning, anywhere, or near its end."""
    data = bytearray(file.read_bytes())
    size = len(data)
    at = chance.choice([chance.randrange(min(size, 200)), chance.randrange(size), size - 1 - chance.randrange(400)])
    at, how = max(0, at), chance.randrange(5)
    if how == 0:
        del data[at:]
    elif how == 1:
        data[at] ^= 1 << chance.randrange(8)
    else:
        data[at : at + 64] = chance.randbytes(len(data[at : at + 64]))
    file.write_bytes(bytes(data))


def _read(folder: Path, rows: dict[bytes, bytes]) -> str:
    """What a worker meets that opens the store and reads all of it: "whole", "set aside" or "corrupt"."""
    store = Store(folder)
    outcome = "set aside" if folder.with_name(f"{folder.name}.damaged-1").exists() else "whole"
    try:
        if outcome == "set aside":
            assert store.changelog_offset == -1 and _all_keys(store) == []
        else:
            assert _all_keys(store) == list(rows), "iteration ended early and said nothing"
            assert store.get_many(list(rows)) == list(rows.values())
            assert store.changelog_offset == 3 and store.watermark is None
    except Corrupt:
        outcome = "corrupt"
    try:
        store.close()
    except Corrupt:
        assert outcome == "corrupt"
    return outcome


def test_damage_anywhere_in_the_files_is_found_and_healed(tmp_path: Path) -> None:
    """Whatever part of a table file is damaged, the store is set aside on opening, or reads Corrupt and is so next."""
    # Paths say "lock": what a message quotes decides nothing.
    chance, outcomes = random.Random(5), []
    original = tmp_path / "lock" / "items-0.db"
    store, rows = Store(original), {entity_key(item): chance.randbytes(40) for item in range(4_000)}
    every = list(rows.items())
    for batch in range(4):
        store.put_many(every[batch * 1_000 : (batch + 1) * 1_000], batch)
    store.close()
    for number in range(60):
        folder = tmp_path / f"lock-{number}" / "items-0.db"
        shutil.copytree(original, folder)
        _damage(max(folder.glob("*.sst"), key=lambda path: path.stat().st_size), chance)
        outcomes.append(_read(folder, rows))
        if outcomes[-1] == "corrupt":
            assert _read(folder, rows) == "set aside"
        shutil.rmtree(folder.parent)
    assert min(outcomes.count("set aside"), outcomes.count("corrupt")) > 10, outcomes
    assert outcomes.count("whole") < 10, "bits that nothing needs are few"


def test_a_damaged_offset_row_is_found_and_healed(tmp_path: Path) -> None:
    """Damage in the block of the offset, without which a store seems empty, is found on opening."""
    folder = tmp_path / "t-0.db"
    for number in (1, 2):
        store = Store(folder)
        store.put_many([(WATERMARK_KEY, b"never decoded here")], 1)
        store.close()
        [path] = folder.glob("*.sst")
        data = bytearray(path.read_bytes())
        data[20] ^= 0xFF
        path.write_bytes(bytes(data))
        store = Store(folder)
        assert store.changelog_offset == -1 and store.watermark is None
        store.close()
        assert (tmp_path / f"t-0.db.damaged-{number}").is_dir()


def test_folders_set_aside_never_meet(tmp_path: Path) -> None:
    """The next one gets a new number although earlier ones were deleted, and a mark without a folder is forgotten."""
    (tmp_path / "t-0.db.damaged-2" / "kept").mkdir(parents=True)
    (tmp_path / "t-0.db.suspect").touch()
    Store(tmp_path / "t-0.db").close()
    assert not (tmp_path / "t-0.db.suspect").exists()
    (tmp_path / "t-0.db" / "CURRENT").write_text("nonsense")
    Store(tmp_path / "t-0.db").close()
    assert {path.name for path in tmp_path.glob("*damaged*")} == {"t-0.db.damaged-2", "t-0.db.damaged-3"}


def test_a_copy_of_another_changelog_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A store keeps its topic's id; a copy of another topic begins empty, one that knows none takes what it is told."""
    folder = tmp_path / "t-0.db"
    store = Store(folder)
    store.put_many([(b"a", b"1")], 7)
    store.be_copy_of(-5)
    assert store.changelog_offset == 7
    store.close()
    store = Store(folder)
    store.be_copy_of(-5)
    assert store.get_many([b"a"]) == [b"1"]
    store.be_copy_of(6)
    assert (store.changelog_offset, store.get_many([b"a"])) == (-1, [None])
    store.put_many([(b"a", b"2")], 0)
    store.close()
    store = Store(folder)
    store.be_copy_of(6)
    assert store.get_many([b"a"]) == [b"2"]
    store.close()
    assert "deleted and made again" in caplog.text
    assert [path.name for path in tmp_path.glob("t-0.db.*")] == ["t-0.db.foreign-1"]
