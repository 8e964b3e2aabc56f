"""The LMDB file under users, items and progress: one process writes, any number read, and nobody waits.

A value carries a checksum, because LMDB has none and a file may be damaged between two starts. Commits are not synced:
a process that is killed loses nothing, and after a crash of the machine the state is made anew (state.py). What does
not hold raises Corrupt, and the state is rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
import xxhash

from schemas.errors import Corrupt, Unavailable

__all__ = ["RowsDb"]

#: Sub-databases: user heads, chunks behind them, live items, decisions on versions, progress by partition, facts.
_NAMES: Final = ("heads", "chunks", "items", "versions", "marks", "facts")
#: Most bytes of the file; it takes what is used.
_MAP_BYTES: Final = 256 << 30
_MOST_READERS: Final = 1024
_SUM: Final = 4
#: What LMDB raises where a file contradicts itself.
_DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError,
                  lmdb.BadTxnError, lmdb.IncompatibleError)  # fmt: skip


class RowsDb:
    """An open file. It must not be opened twice in one process, nor kept across a fork."""

    def __init__(self, path: Path, writable: bool) -> None:
        self._open(path, writable)

    def switch(self, path: Path) -> None:
        """Read another file from now on; the one before is closed when the last read of it ends."""
        self._open(path, writable=False)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Reads of one moment."""
        env, dbs = self._opened
        with self._errors(), env.begin() as txn:
            yield Reading(txn, dbs)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Reads and writes that become visible together at the end, or not at all."""
        env, dbs = self._opened
        with self._errors(), env.begin(write=True) as txn:
            yield Writing(txn, dbs)

    @property
    def nbytes(self) -> int:
        """Bytes of pages in use, of all sub-databases."""
        env, dbs = self._opened
        with self._errors(), env.begin() as txn:
            found = [txn.stat(db) for db in dbs.values()]
        return sum(
            each["psize"] * (each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"]) for each in found
        )

    def tidy(self) -> int:
        """Free what readers hold that ended without saying so; how many."""
        return int(self._opened[0].reader_check())

    def sync(self) -> None:
        """Bring everything to disk."""
        self._opened[0].sync(True)

    def close(self) -> None:
        """Close the file; no read may be under way."""
        self._opened[0].close()

    def _open(self, path: Path, writable: bool) -> None:
        self.path = path
        with self._errors():
            env = lmdb.open(
                str(path), subdir=False, map_size=_MAP_BYTES, max_dbs=len(_NAMES), max_readers=_MOST_READERS,
                readonly=not writable, create=writable, sync=False, metasync=False, meminit=False,
                max_spare_txns=64,
            )  # fmt: skip
            self._check_size(env)
            self._opened: tuple[Any, dict[str, Any]] = (
                env, {name: env.open_db(name.encode(), create=writable) for name in _NAMES}
            )  # fmt: skip

    def _check_size(self, env: Any) -> None:
        """LMDB maps its file and would die of a page that is not there."""
        needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if (found := self.path.stat().st_size) < needed:
            raise Corrupt(f"{self.path} has {found} bytes and needs {needed}: it was cut; it is rebuilt")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise Corrupt(f"{self.path} is damaged: {error}; it is rebuilt") from error
        except (lmdb.DiskError, lmdb.MapFullError) as error:
            raise Unavailable(f"{self.path} cannot be written: {error}; make room on its disk") from error
        except lmdb.Error as error:
            raise Unavailable(f"{self.path} cannot be used: {error}") from error


class Reading:
    """A read transaction."""

    def __init__(self, txn: Any, dbs: dict[str, Any]) -> None:
        self._txn, self._dbs = txn, dbs

    def get(self, name: str, key: bytes) -> bytes | None:
        """A value. Raises Corrupt where it is not as it was written."""
        return _unsealed(name, self._txn.get(key, db=self._dbs[name]))

    def items(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values in key order. Raises Corrupt as `get`."""
        for key, value in self._txn.cursor(self._dbs[name]):
            found = _unsealed(name, value)
            assert found is not None
            yield key, found

    def last(self, name: str) -> tuple[bytes, bytes] | None:
        """The last key and its value. Raises Corrupt as `get`."""
        cursor = self._txn.cursor(self._dbs[name])
        if not cursor.last():
            return None
        key, value = cursor.item()
        found = _unsealed(name, value)
        assert found is not None
        return key, found

    def count(self, name: str) -> int:
        """How many keys there are."""
        return int(self._txn.stat(self._dbs[name])["entries"])


class Writing(Reading):
    """A write transaction; it reads what it has written."""

    def put(self, name: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Set values."""
        sealed = [(key, value + xxhash.xxh32_digest(value)) for key, value in rows]
        with self._txn.cursor(self._dbs[name]) as cursor:
            cursor.putmulti(sealed)

    def delete(self, name: str, keys: Iterable[bytes]) -> None:
        """Remove keys, where they are."""
        for key in keys:
            self._txn.delete(key, db=self._dbs[name])


def _unsealed(name: str, value: bytes | None) -> bytes | None:
    if value is None:
        return None
    if xxhash.xxh32_digest(value[:-_SUM]) != value[-_SUM:]:
        raise Corrupt(f"a value of {name} is not as it was written: the file is damaged and is rebuilt")
    return value[:-_SUM]
