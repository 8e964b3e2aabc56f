"""A store whose list of files is older than its rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from schemas.ids import entity_key
from streams.store import Store

#: Fewer flushed files than RocksDB begins to compact at: a file must not go while the folder is copied.
BATCHES, ROWS = 4, 50


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as kill -9 leaves it: some batches flushed, each to a file of its own, the last one in the log alone."""
    folder = tmp_path_factory.mktemp("killed") / "t-0.db"
    store = Store(folder)
    for batch in range(BATCHES):
        store.put_many([(entity_key(batch * ROWS + row), bytes(100)) for row in range(ROWS)], batch)
        if batch < BATCHES - 1:
            store._db.flush()
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    store.close()
    return copy


def _opened(killed: Path, folder: Path, manifest: bytes) -> str:
    """What becomes of a store with this list of files."""
    shutil.copytree(killed, folder)
    (folder / (folder / "CURRENT").read_text().strip()).write_bytes(manifest)
    store = Store(folder)
    expected = (store.changelog_offset + 1) * ROWS
    rows = store.row_keys(BATCHES * ROWS + 1)
    store.close()
    set_aside = list(folder.parent.glob("*.damaged-*"))
    shutil.rmtree(folder.parent)
    assert len(rows) == expected, "rows are missing from below the store's own offset"
    return "set aside" if set_aside else "kept"


def test_no_cut_and_no_flipped_bit_of_the_list_of_files_goes_unnoticed(killed: Path, tmp_path: Path) -> None:
    """Wherever the list of files is cut or has a bit flipped, the store is set aside or has all rows of its offset."""
    whole = (killed / (killed / "CURRENT").read_text().strip()).read_bytes()
    assert _opened(killed, tmp_path / "whole" / "t-0.db", whole) == "kept"
    outcomes = []
    for place in range(0, len(whole), 11):
        outcomes.append(_opened(killed, tmp_path / f"cut-{place}" / "t-0.db", whole[:place]))
        flipped = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        outcomes.append(_opened(killed, tmp_path / f"flip-{place}" / "t-0.db", flipped))
    assert outcomes.count("set aside") > len(outcomes) // 2
