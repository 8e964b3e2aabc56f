"""How changelog rows get into the store: batches of rows, in order, and with each the offset that it ends at.

The slabs are written first, then everything else with the offset in one transaction: whoever is killed in between
applies the batch again, which changes nothing. One thread of one process may apply; any number read meanwhile.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final, cast

import orjson

from schemas.codec import codec
from schemas.errors import BadInput, DecodeError
from schemas.ids import CHUNK_KEY_BYTES, WATERMARK_KEY, entity_ids, entity_key
from schemas.records import Watermark
from serving.tables.epochs import Epochs
from serving.tables.n2o_rows import split_by_version
from serving.tables.rows_db import Writing
from serving.tables.slab import SlabWriter
from serving.tables.store import CLOCK, ITEMS, N2O, USERS, Store, TablePartition, mark_key, slab_path

__all__ = ["MODELS", "StoreWriter"]

#: The topic that announces versions; it has a mark as the tables have.
MODELS: Final = "model-versions"

_ENTITY_KEY_BYTES: Final = 8
#: Slabs held at once: the live version, the one that fills, and room for rows of versions not announced yet.
_MOST_SLABS: Final = 4

_log = logging.getLogger(__name__)


class StoreWriter:
    """Writes a store that was opened writable; its slabs are checked when this is made. Raises Corrupt."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kept: frozenset[int] = frozenset()  #: tags of versions that are live or becoming so
        self.refused: Counter[tuple[str, str]] = Counter()  #: rows left out, by (table, reason)
        self._epochs = Epochs(store.readers.board)
        self.slabs = {
            int(path.stem, 16): SlabWriter.open(path, self._epochs) for path in sorted(store.folder.glob("*.slab"))
        }
        self._marks = store.marks()
        self._decode_watermark = codec("watermark").decode
        self._decode_version = codec("model_version").decode

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
        if at.table == N2O:
            self._apply_n2o(rows)
        with self.store.rows.writing() as txn:
            if at.table == ITEMS:
                self._refuse(ITEMS, self.store.items.apply(txn, dict(rows)))
            elif at.table == USERS:
                self.store.users.apply(txn, dict(rows))
            self._note(txn, at, next_offset, marks)
        return marks

    def announce(self, records: Sequence[tuple[int, bytes]], next_offset: int | None = None) -> None:
        """Keep values of topic model-versions by their offset; what cannot be decoded is left out and counted."""
        good = []
        for offset, value in records:
            try:
                self._decode_version(value)
            except DecodeError as error:
                self._refuse(MODELS, [error.reason])
            else:
                good.append((entity_key(offset), value))
        with self.store.rows.writing() as txn:
            txn.put("versions", good)
            self._note(txn, TablePartition(MODELS, 0), next_offset, [])

    def forget_announced(self) -> None:
        """Before the log of announcements is read from its start."""
        with self.store.rows.writing() as txn:
            txn.delete("versions", [key for key, _ in list(txn.items("versions"))])

    def note(self, facts: dict[bytes, bytes]) -> None:
        """Keep single facts."""
        with self.store.rows.writing() as txn:
            txn.put("facts", list(facts.items()))

    def slab(self, tag: int, stride: int) -> SlabWriter:
        """The slab of a version, made where there is none yet. Raises BadInput where its rows have another stride."""
        slab = self.slabs.get(tag)
        if slab is None:
            slab = self.slabs[tag] = SlabWriter.create(slab_path(self.store.folder, tag), tag, stride, self._epochs)
            self._drop_beyond_bound()
        if slab.stride != stride:
            raise BadInput(f"rows of version {tag:016x} have {slab.stride} bytes, its artifact says {stride}")
        return slab

    def keep(self, tags: frozenset[int]) -> None:
        """Say which versions are in use: the bound on slabs takes others first."""
        self.kept = tags

    def drop(self, tags: Iterable[int]) -> None:
        """Remove the slabs of versions that nobody will ask for again.

        A request that still reads such a slab holds it by its pinned version; memory is freed when the last one ends.
        """
        for tag in tags:
            if slab := self.slabs.pop(tag, None):
                slab.unlink()

    def _apply_n2o(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        for deleted, run in groupby(rows, key=lambda row: row[1] is None):
            keys, values = zip(*run, strict=True)
            if deleted:
                for slab in self.slabs.values():
                    slab.delete(entity_ids(keys))
                continue
            refused: list[str] = []
            for tag, records in split_by_version(keys, values, refused):
                try:
                    self.slab(tag, records.shape[1]).put(records)
                except BadInput:
                    refused.extend(["wrong_stride"] * len(records))
            self._refuse(N2O, refused)

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

    def _drop_beyond_bound(self) -> None:
        """Keep the newest slabs that nobody uses, up to the bound on all."""
        idle = [tag for tag in self.slabs if tag not in self.kept]
        for tag in idle[: max(0, len(self.slabs) - _MOST_SLABS)]:
            _log.warning(
                "dropped %d rows of version %016x: more than %d versions", len(self.slabs[tag]), tag, _MOST_SLABS
            )
            self.drop([tag])
