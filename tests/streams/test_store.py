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


def test_a_damaged_folder_is_refused_as_corrupt(tmp_path: Path) -> None:
    """A store whose files are garbage says where it is and that it can be rebuilt."""
    folder = tmp_path / "t-0.db"
    store = Store(folder)
    store.put_many([(b"a", b"1")], 1)
    store.close()
    (folder / "CURRENT").write_bytes(b"garbage")
    with pytest.raises(Corrupt, match=r"t-0\.db cannot be opened"):
        Store(folder)
