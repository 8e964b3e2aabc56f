"""One partition of a table on disk: a RocksDB that holds rows and the changelog offset they reflect.

The changelog topic is the truth and this is a copy of it, so writes are never synced: after a crash the store is some
prefix of the changelog, its own offset says which, and recovery reads on from there. Rows and offset go into one
WriteBatch, so they cannot disagree.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch

from schemas.codec import codec
from schemas.errors import AifError, Corrupt, Unavailable
from schemas.ids import WATERMARK_KEY
from schemas.records import Watermark

__all__ = ["CHANGELOG_OFFSET_KEY", "Row", "Store"]

logger = logging.getLogger(__name__)

#: Where a store keeps the offset of the last changelog record it contains: 8 bytes, big-endian int64.
CHANGELOG_OFFSET_KEY: Final = b"\x00changelog-offset"

#: Key and value of a table row; None deletes.
Row = tuple[bytes, bytes | None]

#: How RocksDB's messages begin where files contradict themselves, in contrast to a disk that is full or gone.
_DAMAGE: Final = ("Corruption", "Invalid argument", "IO error: No such file")

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

    A folder that RocksDB finds damaged, now or in an earlier run, is moved aside (`*.damaged-N`) and the store begins
    empty: recovery rebuilds it from the changelog. Raises Unavailable where another process holds the folder or the
    disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._suspect = folder.with_name(f"{folder.name}.suspect")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if self._suspect.exists():
            self._set_aside("an earlier run found it damaged")
        try:
            self._db = Rdict(str(folder), _options())
        except Exception as error:
            self._refuse_busy(error)
            self._set_aside(str(error))
            self._db = Rdict(str(folder), _options())

    def _refuse_busy(self, error: Exception) -> None:
        # rocksdict raises bare Exception for everything; RocksDB's own words begin with the kind of failure.
        if "lock" in str(error).lower():
            raise Unavailable(f"{self.folder} is in use by another process: give each worker its own --name") from error
        if not str(error).startswith(_DAMAGE):
            raise Unavailable(f"{self.folder} cannot be opened: {error}") from error

    def _set_aside(self, why: str) -> None:
        taken = sum(1 for _ in self.folder.parent.glob(f"{self.folder.name}.damaged-*"))
        aside = self.folder.with_name(f"{self.folder.name}.damaged-{taken + 1}")
        logger.error("%s is damaged (%s): moved to %s, rebuilding from the changelog", self.folder, why, aside.name)
        self.folder.rename(aside)
        self._suspect.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> AifError:
        """What a failed read or write means: damage is remembered for the next start, anything else may pass."""
        if str(error).startswith(_DAMAGE):
            self._suspect.touch()
            return Corrupt(f"{self.folder} is damaged: {error}. The next start rebuilds it from the changelog")
        return Unavailable(f"{self.folder}: {error}")

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of some keys, None where there is no row."""
        try:
            values: list[bytes | None] = self._db.get(list(keys))
        except Exception as error:
            raise self._failed(error) from error
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
        try:
            self._db.write(batch)
        except Exception as error:
            raise self._failed(error) from error

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
