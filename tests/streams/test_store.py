"""RocksDB stores."""

from pathlib import Path

import pytest

from schemas.codec import codec
from schemas.errors import Corrupt, Unavailable
from schemas.ids import WATERMARK_KEY, entity_key
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
