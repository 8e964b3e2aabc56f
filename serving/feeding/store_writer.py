"""How changelog rows get into the store: batches of rows, in order, and with each the offset that it ends at.

The slabs are written first, then everything else with the offset in one transaction: whoever is killed in between
applies the batch again, which changes nothing. One thread of one process may apply; any number read meanwhile.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

import orjson

from domain.rollout import SLOTS
from schemas.codec import codec
from schemas.errors import BadInput, DecodeError
from schemas.ids import CHUNK_KEY_BYTES, WATERMARK_KEY, entity_ids, entity_key
from schemas.records import Watermark
from serving.tables.epochs import Epochs
from serving.tables.n2o_rows import split_by_version
from serving.tables.rows_db import Writing
from serving.tables.slab import SlabWriter, header_dtype
from serving.tables.store import (
    CLOCK,
    ITEMS,
    USERS,
    SlabKey,
    Store,
    TablePartition,
    mark_key,
    slab_keys,
    slab_path,
)  # fmt: skip

__all__ = ["ROLLOUT", "StoreWriter"]

#: The topic of decisions; it has a mark as the tables have.
ROLLOUT: Final = "rollout"

_ENTITY_KEY_BYTES: Final = 8
#: Slabs held at once: three slots, and what is left of the versions that had them before.
_MOST_SLABS: Final = 12

_log = logging.getLogger(__name__)


class StoreWriter:
    """Writes a store that was opened writable; its slabs are checked when this is made. Raises Corrupt."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fed: frozenset[SlabKey] = frozenset()  #: where the versions stand that workers keep rows of
        self.refused: Counter[tuple[str, str]] = Counter()  #: rows left out, by (table, reason)
        self._epochs = Epochs(store.readers.board)
        self.slabs = {
            key: SlabWriter.open(slab_path(store.folder, key), self._epochs) for key in slab_keys(store.folder)
        }
        self._marks = store.marks()
        self._decode_watermark = codec("watermark").decode
        self._decode_decision = codec("rollout_event").decode

    @property
    def offsets(self) -> dict[TablePartition, int]:
        """The next changelog offset to apply of each partition that has begun."""
        return {at: offset for at, (offset, _) in self._marks.items()}

    @property
    def revocations(self) -> int:
        """Leases taken from readers that had stopped in the middle of a gather."""
        return self._epochs.revocations

    def apply(
        self, at: TablePartition, keys: Sequence[bytes], values: Sequence[bytes | None], next_offset: int | None = None
    ) -> list[Watermark]:
        """Apply rows of a partition in changelog order; None is a deletion. Returns the watermarks among them.

        `next_offset` is where the changelog goes on behind them; None leaves the offset as it is.
        """
        marks = self._take_watermarks(at, keys, values)
        wanted = (_ENTITY_KEY_BYTES, CHUNK_KEY_BYTES) if at.table == USERS else (_ENTITY_KEY_BYTES,)
        rows = [(key, value) for key, value in zip(keys, values, strict=True) if len(key) in wanted]
        if at.table in SLOTS:
            self._apply_slot(at.table, dict(rows))
        with self.store.rows.writing() as txn:
            if at.table == ITEMS:
                self._refuse(ITEMS, self.store.items.apply(txn, dict(rows)))
            elif at.table == USERS:
                self.store.users.apply(txn, dict(rows))
            self._note(txn, at, next_offset, marks)
        return marks

    def decide(self, records: Sequence[tuple[int, bytes]], next_offset: int | None = None) -> None:
        """Keep values of topic rollout by their offset; what cannot be decoded is left out and counted."""
        good = []
        for offset, value in records:
            try:
                self._decode_decision(value)
            except DecodeError as error:
                self._refuse(ROLLOUT, [error.reason])
            else:
                good.append((entity_key(offset), value))
        with self.store.rows.writing() as txn:
            txn.put("versions", good)
            self._note(txn, TablePartition(ROLLOUT, 0), next_offset, [])

    def forget_decisions(self) -> None:
        """Before the log of decisions is read from its start."""
        with self.store.rows.writing() as txn:
            txn.delete("versions", [key for key, _ in list(txn.items("versions"))])

    def note(self, facts: dict[bytes, bytes]) -> None:
        """Keep single facts."""
        with self.store.rows.writing() as txn:
            txn.put("facts", list(facts.items()))

    def slab(self, key: SlabKey, stride: int) -> SlabWriter:
        """A slab, made where there is none yet. Raises BadInput where its rows have another stride."""
        slab = self.slabs.get(key)
        if slab is None:
            path = slab_path(self.store.folder, key)
            slab = self.slabs[key] = SlabWriter.create(path, key.tag, stride, self._epochs)
            self._drop_beyond_bound(key)
        if slab.stride != stride:
            raise BadInput(f"rows of version {key.tag:016x} have {slab.stride} bytes, its artifact says {stride}")
        return slab

    def keep(self, fed: frozenset[SlabKey]) -> None:
        """Say where versions stand, and drop slabs that are none of theirs and have been emptied.

        A request that still reads such a slab holds it by its pinned version; memory is freed when the last one ends.
        """
        self.fed = fed
        for key in [key for key, slab in self.slabs.items() if not len(slab) and key not in fed]:
            self._drop(key)

    @property
    def most_slab_bytes(self) -> int:
        """What slabs take at most for as many items as now: each of the slots as the largest of them."""
        return len(SLOTS) * max((slab.most_bytes for slab in self.slabs.values()), default=0)

    def _apply_slot(self, slot: str, newest: dict[bytes, bytes | None]) -> None:
        """Take the newest row of each key. It takes the place of whatever the slot had there, of any version."""
        held = {key: slab for key, slab in self.slabs.items() if key.slot == slot}
        gone = [key for key, value in newest.items() if value is None]
        for slab in held.values() if gone else ():
            slab.delete(entity_ids(gone))
        put = [(key, value) for key, value in newest.items() if value is not None]
        if not put:
            return
        refused: list[str] = []
        keys, values = zip(*put, strict=True)
        for tag, records in split_by_version(keys, values, refused):
            mine = SlabKey(slot, tag)
            try:
                self.slab(mine, records.shape[1]).put(records)
            except BadInput:
                refused.extend(["wrong_stride"] * len(records))
                continue
            ids = records.view(header_dtype(records.shape[1]))[:, 0]["item_id"].copy()
            for key, slab in held.items():
                if key != mine:
                    slab.delete(ids)
        self._refuse(slot, refused)

    def _note(self, txn: Writing, at: TablePartition, next_offset: int | None, marks: list[Watermark]) -> None:
        """Keep where the partition stands; the clock with it."""
        offset, newest = self._marks.get(at, (0, None))
        offset, newest = (offset if next_offset is None else next_offset), (marks[-1] if marks else newest)
        self._marks[at] = offset, newest
        txn.put("marks", [(mark_key(at), orjson.dumps([offset, newest]))])
        if marks and (clock_ms := self._clock_ms()) is not None:
            txn.put("facts", [(CLOCK, str(clock_ms).encode())])

    def _clock_ms(self) -> int | None:
        for table in (USERS, ITEMS):
            times = [mark["max_event_time_ms"] for at, (_, mark) in self._marks.items() if at.table == table and mark]
            if newest := max(times, default=0):
                return newest
        return None

    def _take_watermarks(
        self, at: TablePartition, keys: Sequence[bytes], values: Sequence[bytes | None]
    ) -> list[Watermark]:
        found = []
        for key, value in zip(keys, values, strict=True):
            if key != WATERMARK_KEY or value is None:
                continue
            try:
                found.append(cast(Watermark, self._decode_watermark(value)))
            except DecodeError as error:
                self._refuse(at.table, [error.reason])
        return found

    def _refuse(self, table: str, reasons: list[str]) -> None:
        for reason in reasons:
            if not self.refused[table, reason]:
                _log.error("%s: a row was refused (%s); it is left out, further ones are only counted", table, reason)
            self.refused[table, reason] += 1

    def _drop_beyond_bound(self, newest: SlabKey) -> None:
        """More slabs than versions can have in use: the smallest of the others goes."""
        idle = sorted((len(slab), key) for key, slab in self.slabs.items() if key not in (newest, *self.fed))
        for rows, key in idle[: max(0, len(self.slabs) - _MOST_SLABS)]:
            _log.warning("dropped %d rows of version %016x in %s: more than %d slabs", rows, key.tag, key.slot,
                         _MOST_SLABS)  # fmt: skip
            self._drop(key)

    def _drop(self, key: SlabKey) -> None:
        self.slabs.pop(key).unlink()
