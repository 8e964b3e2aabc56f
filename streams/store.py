"""One partition of a table on disk: a RocksDB that holds rows and the changelog offset they reflect.

The changelog topic is the truth and this is a copy of it, so writes are never synced: after a crash the store is some
prefix of the changelog, its own offset says which, and recovery reads on from there. Rows and offset go into one
WriteBatch, so they cannot disagree.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch

from schemas.codec import codec
from schemas.errors import Corrupt, Unavailable
from schemas.ids import WATERMARK_KEY
from schemas.records import Watermark

__all__ = ["CHANGELOG_OFFSET_KEY", "Row", "Store"]

#: Where a store keeps the offset of the last changelog record it contains: 8 bytes, big-endian int64.
CHANGELOG_OFFSET_KEY: Final = b"\x00changelog-offset"

#: Key and value of a table row; None deletes.
Row = tuple[bytes, bytes | None]

_OFFSET: Final = struct.Struct(">q")
_MIB: Final = 1 << 20
#: Shared by all stores of a process; RocksDB's default would be one cache per store.
_BLOCK_CACHE: Final = Cache(64 * _MIB)


def _options() -> Options:
    """At most 3 x 16 MiB of memtables and 256 open files per store, one 64 MiB block cache for all."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(16 * _MIB)
    options.set_max_write_buffer_number(3)
    options.set_max_total_wal_size(64 * _MIB)
    options.set_max_open_files(256)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_BLOCK_CACHE)
    blocks.set_bloom_filter(10.0, False)
    options.set_block_based_table_factory(blocks)
    return options


class Store:
    """Rows of one table partition. Not for use by two threads at once, except reads beside a writer.

    Raises Unavailable where another process holds the folder, Corrupt where RocksDB cannot open it: move the folder
    away and start again, recovery rebuilds it from the changelog.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = Rdict(str(folder), _options())
        except Exception as error:  # rocksdict raises bare Exception for every failure of open
            if "lock" in str(error).lower():
                raise Unavailable(f"{folder} is in use by another process: give each worker its own --name") from error
            raise Corrupt(
                f"{folder} cannot be opened: {error}. Move it away and start again: it is rebuilt from the changelog"
            ) from error

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of some keys, None where there is no row."""
        values: list[bytes | None] = self._db.get(list(keys))
        return values

    def put_many(self, rows: Sequence[Row], changelog_offset: int) -> None:
        """Write rows and the offset of the last of their changelog records, atomically."""
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in rows:
            if value is None:
                delete(key)
            else:
                put(key, value)
        put(CHANGELOG_OFFSET_KEY, _OFFSET.pack(changelog_offset))
        self._db.write(batch)

    @property
    def changelog_offset(self) -> int:
        """Offset of the last changelog record that the store contains; -1 in an empty store."""
        found = self._db.get(CHANGELOG_OFFSET_KEY)
        return -1 if found is None else int(_OFFSET.unpack(found)[0])

    @property
    def watermark(self) -> Watermark | None:
        """The partition's watermark row, None before the first batch."""
        found = self._db.get(WATERMARK_KEY)
        return None if found is None else codec("watermark").decode(found)  # type: ignore[return-value]

    def entity_keys(self, after: bytes, limit: int) -> list[bytes]:
        """Up to `limit` 8-byte keys greater than `after`, in order (b"" starts from the first)."""
        found = []
        for key in self._keys_from(after):
            if len(key) == 8 and key > after:
                found.append(key)
                if len(found) == limit:
                    break
        return found

    def _keys_from(self, key: bytes) -> Iterator[bytes]:
        return iter(self._db.keys(from_key=key)) if key else iter(self._db.keys())

    def close(self) -> None:
        """Flush and release the folder."""
        self._db.close()
