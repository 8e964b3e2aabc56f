"""Rows of table items, made from update records without decoding and encoding their catalogue fields again.

ItemUpdate and ItemRow hold the catalogue (original_id to numeric) in the same order, so its encoding is the same bytes:
a row is its own head, a copy of that part of the update, and its own tail. Heads are encoded by the column. An update
of another schema, or one whose writer used longer varints than needed, takes the slow way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from schemas.codec import codec
from schemas.columns import encode_longs
from schemas.ids import entity_keys
from schemas.records import ItemRow, ItemUpdate
from streams.fold import SourceRecord
from streams.store import Row

__all__ = ["encode_item_rows"]

_OPS: Final = {"upsert": 0, "delete": 1}


def encode_item_rows(rows: Sequence[ItemRow], origins: Sequence[tuple[SourceRecord, ItemUpdate]]) -> list[Row]:
    """Keys and encoded values of rows, each made from the update record in `origins`; equal to `Codec.encode`."""
    if not rows:
        return []
    update_heads = encode_longs(
        np.array([(u["event_id"], u["item_id"], u["event_time_ms"], _OPS[u["op"]]) for _, u in origins], dtype=np.int64)
    )
    # A boolean is one byte, 0 or 1: it is written as a long of half its zigzag, 0 or -1 -> 0x00 or 0x01.
    columns = np.array(
        [(r["item_id"], r["event_time_ms"], r["source_topic_id"], r["source_offset"], -r["deleted"]) for r in rows],
        dtype=np.int64,
    )
    row_heads = encode_longs(columns)
    row_codec, update_header = codec("item_row"), codec("item_update").header
    keys = entity_keys(columns[:, 0])
    tails = _Tails()
    encoded: list[Row] = []
    for key, row, (source, _), update_head, row_head in zip(keys, rows, origins, update_heads, row_heads, strict=True):
        value: Any = source.value
        head = update_header + update_head
        if value.startswith(head):
            encoded.append((key, row_codec.header + row_head + value[len(head) :] + tails.of(row)))
        else:
            encoded.append((key, row_codec.encode(row)))
    return encoded


class _Tails:
    """The encoding of (signature, signature_version): the same for all rows but for the signature's bytes."""

    def __init__(self) -> None:
        self._around: dict[tuple[int, str], tuple[bytes, bytes]] = {}

    def of(self, row: ItemRow) -> bytes:
        signature = row["signature"]
        kind = -1 if signature is None else len(signature), row["signature_version"]
        if kind not in self._around:
            self._around[kind] = self._encode(*kind)
        before, after = self._around[kind]
        return before + (signature or b"") + after

    @staticmethod
    def _encode(size: int, version: str) -> tuple[bytes, bytes]:
        text = version.encode()
        after = encode_longs(np.array([[len(text)]], dtype=np.int64))[0] + text
        if size < 0:
            return b"\x00", after
        return b"\x02" + encode_longs(np.array([[size]], dtype=np.int64))[0], after
