"""Users' rows: their heads and the chunks of older behaviours behind them, as the bytes of the changelog.

A head and its chunks are read in one moment of the store. They are written together by the worker, but may reach the
store in two fetches: chunks that the head is ahead of are left out until they come, behaviours that a chunk has and the
head still has too are counted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy.typing as npt

from domain.sequence import newest_first
from domain.user_row import FINGERPRINT
from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.ids import CHUNK_KEY_BYTES, chunk_key, entity_key
from schemas.records import UserHead
from serving.tables.rows_db import Reading, RowsDb, Writing

__all__ = ["UserRow", "UserStore"]

_DECODE_HEAD = codec("user_head").decode
_DECODE_CHUNK = codec("user_chunk").decode


class UserRow(NamedTuple):
    """A user at one moment."""

    head: UserHead
    behaviours: npt.NDArray[Any]  #: [n] BEHAVIOUR_DTYPE, newest first


class UserStore:
    """User rows by id; any thread may read."""

    def __init__(self, rows: RowsDb) -> None:
        self._rows = rows

    def __len__(self) -> int:
        with self._rows.reading() as txn:
            return txn.count("heads")

    def apply(self, txn: Writing, rows: Mapping[bytes, bytes | None]) -> None:
        """Take rows of table users by key: heads and chunks."""
        for name, chunks in (("heads", False), ("chunks", True)):
            mine = {key: value for key, value in rows.items() if (len(key) == CHUNK_KEY_BYTES) == chunks}
            txn.put(name, [(key, value) for key, value in mine.items() if value is not None])
            txn.delete(name, [key for key, value in mine.items() if value is None])

    def head(self, user_id: int) -> UserHead | None:
        """The user's row, None where there is none.

        Raises DecodeError on bytes that are no user_head, or (reason `other_windows`) where its windows are declared
        otherwise than in this build: such a row would be misread.
        """
        with self._rows.reading() as txn:
            return _head(txn, user_id)

    def read(self, user_id: int, count: int) -> UserRow | None:
        """The user's row and at most `count` behaviours, of one moment; None where there is none.

        Behaviours are the last of the log, the newest logged first: `History` of training gives the same ones. Those
        later than a request's time are the caller's to leave out. At most the last 10,000. Raises as `head`.
        """
        with self._rows.reading() as txn:
            head = _head(txn, user_id)
            if head is None:
                return None

            def chunk(number: int) -> bytes:
                value = txn.get("chunks", chunk_key(user_id, number))
                found: bytes = b"" if value is None else _DECODE_CHUNK(value)["behaviours"]
                return found

            return UserRow(head, newest_first(head["behaviours"], head["counted"], chunk, count))

    def behaviours(self, user_id: int, count: int) -> npt.NDArray[Any]:
        """The behaviours of `read`; none for a user without a row."""
        row = self.read(user_id, count)
        return newest_first(b"", 0, lambda number: b"", 0) if row is None else row.behaviours


def _head(txn: Reading, user_id: int) -> UserHead | None:
    value = txn.get("heads", entity_key(user_id))
    if value is None:
        return None
    head = cast(UserHead, _DECODE_HEAD(value))
    if head["fingerprint"] != FINGERPRINT:
        raise DecodeError("other_windows", f"user row of fingerprint {head['fingerprint']}, expected {FINGERPRINT}")
    return head
