"""User heads by id, kept as the bytes of the changelog and decoded when a request asks: most users never do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy.typing as npt

from domain.user_row import FINGERPRINT, behaviours_of
from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.ids import entity_key
from schemas.records import UserHead

__all__ = ["UserStore"]


class UserStore:
    """Encoded user_head rows by key. One thread writes; a single read sees one moment."""

    def __init__(self) -> None:
        self._heads: dict[bytes, bytes] = {}
        self._decode = codec("user_head").decode
        self.head_bytes = 0  #: of all encoded heads

    def __len__(self) -> int:
        return len(self._heads)

    def apply(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Take rows of table users by key."""
        for key, value in rows.items():
            old = self._heads.get(key)
            self.head_bytes += (0 if value is None else len(value)) - (0 if old is None else len(old))
            if value is not None:
                self._heads[key] = value
            elif old is not None:
                del self._heads[key]

    def head(self, user_id: int) -> UserHead | None:
        """The user's row, None where there is none.

        Raises DecodeError on bytes that are no user_head, or (reason `other_windows`) where its windows are declared
        otherwise than in this build: such a row would be misread.
        """
        value = self._heads.get(entity_key(user_id))
        if value is None:
            return None
        head = cast(UserHead, self._decode(value))
        if head["fingerprint"] != FINGERPRINT:
            raise DecodeError("other_windows", f"user row of fingerprint {head['fingerprint']}, expected {FINGERPRINT}")
        return head

    def behaviours(self, user_id: int, count: int) -> npt.NDArray[Any]:
        """The user's newest behaviours, newest first ([<= count] BEHAVIOUR_DTYPE): those of the row, at most 32."""
        return behaviours_of(self.head(user_id))[::-1][:count]
