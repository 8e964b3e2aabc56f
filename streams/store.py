"""One partition of a table on disk: a RocksDB that holds rows and the changelog offset they reflect.

The changelog topic is the truth and this is a copy of it, so writes are never synced: after a crash the store is some
prefix of the changelog, its own offset says which, and recovery reads on from there. Rows and offset go into one
WriteBatch, so they cannot disagree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch

from schemas.codec import codec
from schemas.errors import AifError, Corrupt, Unavailable
from schemas.ids import WATERMARK_KEY
from schemas.records import Watermark
from schemas.stores_on_disk import (
    CHANGELOG_ID_KEY,
    CHANGELOG_OFFSET_KEY,
    is_damage,
    number_of,
    packed_number,
    packed_place,
    rows_of,
)
from streams.file_list import logs_needed_from, older_list

__all__ = ["Row", "Store"]

logger = logging.getLogger(__name__)

#: Key and value of a table row; None deletes.
Row = tuple[bytes, bytes | None]

#: How RocksDB's messages begin where a folder's lock is taken, by this process or another.
_LOCKED: Final = ("IO error: lock hold by", "IO error: While lock file")
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

    A folder that RocksDB or file_list.py finds damaged, now or in an earlier run, is moved aside (`*.damaged-N`) and
    the store begins empty: recovery rebuilds it from the changelog. Opening raises Unavailable where another process
    holds the folder or the disk fails. Every method raises Corrupt where it meets damage, which the next opening
    remembers, and Unavailable where the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._suspect = folder.with_name(f"{folder.name}.suspect")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if self._suspect.exists():
            self._set_aside("damaged", "an earlier run found it damaged")
        try:
            if why := older_list(folder):
                self._set_aside("damaged", why)
            self._db = Rdict(str(folder), _options())
        except Exception as error:
            if not is_damage(error):
                raise self._not_opened(error) from error
            self._set_aside("damaged", str(error))
            self._open_new()

    def _open_new(self) -> None:
        try:
            self._db = Rdict(str(self.folder), _options())
        except Exception as error:
            raise self._not_opened(error) from error

    def _not_opened(self, error: Exception) -> Unavailable:
        if str(error).startswith(_LOCKED):
            return Unavailable(f"{self.folder} is in use by another process ({error}): give each worker its own --name")
        return Unavailable(f"{self.folder} cannot be opened: {error}")

    def _set_aside(self, kind: str, why: str) -> None:
        """Move the folder to `*.<kind>-N`, N one more than the highest there."""
        if self.folder.exists():
            taken = [path.name.rpartition("-")[2] for path in self.folder.parent.glob(f"{self.folder.name}.{kind}-*")]
            number = 1 + max((int(each) for each in taken if each.isdigit()), default=0)
            aside = self.folder.with_name(f"{self.folder.name}.{kind}-{number}")
            self.folder.rename(aside)
            logger.error("%s: %s. Moved to %s, rebuilding from the changelog", self.folder, why, aside.name)
        self._suspect.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> AifError:
        """What a failed read or write means: damage is remembered for the next start, anything else may pass."""
        if is_damage(error):
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
        place = packed_place(changelog_offset, logs_needed_from(self._db))
        self._write([*rows, (CHANGELOG_OFFSET_KEY, place)])

    def _write(self, rows: Sequence[Row]) -> None:
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in rows:
            if value is None:
                delete(key)
            else:
                put(key, value)
        try:
            self._db.write(batch)
        except Exception as error:
            raise self._failed(error) from error

    def be_copy_of(self, changelog_id: int) -> None:
        """Make sure that what is inside comes from the changelog topic of this id (`streams.sources.topic_ids`).

        A store of another topic, deleted since, is moved aside (`*.foreign-N`) and this one begins empty: offsets of
        the two do not compare. A store that does not know its topic yet takes this one for it.
        """
        [found] = self.get_many([CHANGELOG_ID_KEY])
        if found is not None and number_of(found) == changelog_id:
            return
        if found is not None:
            self.close()
            self._set_aside("foreign", "it is a copy of a changelog topic that has been deleted and made again")
            self._open_new()
        self._write([(CHANGELOG_ID_KEY, packed_number(changelog_id))])

    @property
    def changelog_offset(self) -> int:
        """Offset of the last changelog record that the store contains; -1 in an empty store."""
        [found] = self.get_many([CHANGELOG_OFFSET_KEY])
        return -1 if found is None else number_of(found)

    @property
    def watermark(self) -> Watermark | None:
        """The partition's watermark row, None before the first batch."""
        [found] = self.get_many([WATERMARK_KEY])
        return None if found is None else codec("watermark").decode(found)  # type: ignore[return-value]

    def entity_keys(self, after: bytes, limit: int) -> list[bytes]:
        """Up to `limit` 8-byte keys greater than `after`, in order (b"" starts from the first)."""
        try:
            return list(islice((key for key, _ in rows_of(self._db, after) if len(key) == 8), limit))
        except Exception as error:
            raise self._failed(error) from error

    def entity_rows(self, after: bytes, limit: int, until: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """`entity_keys` with their values, up to key `until` where it is given."""
        found: list[tuple[bytes, bytes]] = []
        rows = None
        try:
            rows = self._db.iter()
            rows.seek(after)
            # Bound once: of a million rows, looking the methods up takes as long as they do.
            key_of, value_of, advance = rows.key, rows.value, rows.next
            while len(found) < limit and (key := key_of()) is not None:
                if until is not None and key > until:
                    break
                if len(key) == 8 and key > after:
                    found.append((key, value_of()))
                advance()
            rows.status()
        except Exception as error:
            raise self._failed(error) from error
        finally:
            del rows  # kept by a traceback, it would keep the store open, and locked
        return found

    def row_keys(self, limit: int) -> list[bytes]:
        """Up to `limit` keys of rows, chunks included; the watermark's and the store's own are left out."""
        others = WATERMARK_KEY, CHANGELOG_OFFSET_KEY, CHANGELOG_ID_KEY
        try:
            return list(islice((key for key, _ in rows_of(self._db) if key not in others), limit))
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Flush and release the folder."""
        try:
            self._db.close()
        except Exception as error:
            raise self._failed(error) from error
