"""Whether RocksDB's list of a store's files is older than its rows: what no check of its own tells.

RocksDB reads its list of files (MANIFEST) up to the first record that looks unfinished, as the last one after a crash
does. A list cut short anywhere therefore opens without complaint: with the files of some time ago, and with the rows of
the newest write-ahead log on top. Those between are missing, though the store's own offset says that it has them.

A list also says how far the write-ahead logs before it are needed no more, and that number only rises. So every batch
notes the number as it stood when it was written, beside the changelog offset: a list with a lower one than a row has
seen is an older list. What remains unseen is a list cut short by its last flush, in the moment between that flush and
the next batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rocksdict import AccessType, Options, Rdict

from schemas.stores_on_disk import CHANGELOG_OFFSET_KEY, logs_seen

__all__ = ["logs_needed_from", "older_list"]

_NEEDED: Final = "rocksdb.min-log-number-to-keep"


def logs_needed_from(db: Any) -> int:
    """Number of the oldest write-ahead log that the list of files needs; 0 before the first flush."""
    return int(db.property_int_value(_NEEDED) or 0)


def older_list(folder: Path) -> str:
    """Why the list of files in a closed store is older than its rows; empty where it is not, or nothing is there.

    Opens the store for reading, which costs one reading of its write-ahead log. Raises what RocksDB says where it
    cannot be opened.
    """
    if not (folder / "CURRENT").exists():
        return ""
    db = Rdict(str(folder), Options(raw_mode=True), access_type=AccessType.read_only())
    try:
        found = db.get(CHANGELOG_OFFSET_KEY)
        needed, seen = logs_needed_from(db), 0 if found is None else logs_seen(found)
    finally:
        db.close()
    if needed >= seen:
        return ""
    return f"its list of files is of write-ahead log {needed}, its newest row of {seen}: files are missing from it"
