"""Everything that serving holds in memory, and how changelog rows get into it. No I/O: rows come as batches.

One thread applies; request threads read. Each read (an item, a head, one gather) sees one moment; reads of different
tables may see different moments, as tables are written by different workers anyway.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple, cast

from schemas.codec import codec
from schemas.errors import BadInput, DecodeError
from schemas.ids import WATERMARK_KEY, entity_ids
from schemas.records import Watermark
from serving.items import ItemStore
from serving.n2o_rows import split_by_version
from serving.slab import Slab
from serving.users import UserStore

__all__ = ["ITEMS", "N2O", "SERVED_TABLES", "USERS", "Store", "TablePartition"]

ITEMS: Final = "items"
N2O: Final = "n2o_a"
USERS: Final = "users"
#: The tables whose changelogs serving follows.
SERVED_TABLES: Final = (ITEMS, N2O, USERS)

_ENTITY_KEY_BYTES: Final = 8
#: Slabs held at once: the live version, the one that fills, and room for rows of versions not announced yet.
_MOST_SLABS: Final = 4

_log = logging.getLogger(__name__)


class TablePartition(NamedTuple):
    """One partition of a table."""

    table: str
    partition: int


class Store:
    """Items, N2O slabs by version tag, users, and how far each partition has been applied."""

    def __init__(self) -> None:
        self.items = ItemStore()
        self.users = UserStore()
        self.slabs: dict[int, Slab] = {}
        self.kept: frozenset[int] = frozenset()  #: tags of versions that are live or becoming so
        self.watermarks: dict[TablePartition, Watermark] = {}
        self.applied: dict[TablePartition, int] = {}  #: the next changelog offset to apply; the feed's to set
        self.refused: Counter[tuple[str, str]] = Counter()  #: rows left out, by (table, reason)
        self._decode_watermark = codec("watermark").decode

    def apply(self, at: TablePartition, keys: Sequence[bytes], values: Sequence[bytes | None]) -> list[Watermark]:
        """Apply rows of a partition in changelog order; None is a deletion. Returns the watermarks among them."""
        watermarks = self._take_watermarks(at, keys, values)
        rows = [(key, value) for key, value in zip(keys, values, strict=True) if len(key) == _ENTITY_KEY_BYTES]
        if at.table == N2O:
            self._apply_n2o(rows)
        elif at.table == ITEMS:
            self._refuse(ITEMS, self.items.apply(dict(rows)))
        else:
            self.users.apply(dict(rows))
        return watermarks

    def marks(self) -> dict[TablePartition, tuple[int, Watermark | None]]:
        """The next changelog offset to apply, and the newest watermark, of each table partition that has begun."""
        return {at: (offset, self.watermarks.get(at)) for at, offset in list(self.applied.items())}

    def slab(self, tag: int, stride: int) -> Slab:
        """The slab of a version, made where there is none yet. Raises BadInput where its rows have another stride."""
        slab = self.slabs.get(tag)
        if slab is None:
            slab = self.slabs[tag] = Slab(tag, stride)
            self._drop_beyond_bound()
        if slab.stride != stride:
            raise BadInput(f"rows of version {tag:016x} have {slab.stride} bytes, its artifact says {stride}")
        return slab

    def coverage(self, tag: int) -> float:
        """Servable rows of a version per live item, 0 to 1; 0 while there is no item."""
        slab, items = self.slabs.get(tag), len(self.items)
        return min(1.0, slab.servable / items) if slab and items else 0.0

    def keep(self, tags: frozenset[int]) -> None:
        """Say which versions are in use. Slabs of versions that were and no longer are go.

        A request that still reads such a slab holds it by its pinned version; memory is freed when the last one ends.
        """
        for tag in self.kept - tags:
            self.slabs.pop(tag, None)
        self.kept = tags

    @property
    def event_clock_ms(self) -> int | None:
        """Newest event time applied by the user tables, else by the item tables; None while nothing was applied.

        User events come first: catalogue updates may carry times far from those of the events that windows count.
        """
        for table in (USERS, ITEMS):
            times = [mark["max_event_time_ms"] for at, mark in list(self.watermarks.items()) if at.table == table]
            if newest := max(times, default=0):
                return newest
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of slabs and encoded user heads: what grows with the catalogue and the users."""
        return sum(slab.nbytes for slab in list(self.slabs.values())) + self.users.head_bytes

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
        if found:
            self.watermarks[at] = found[-1]
        return found

    def _refuse(self, table: str, reasons: list[str]) -> None:
        for reason in reasons:
            if not self.refused[table, reason]:
                _log.error(
                    "table %s: a row was refused (%s); it is left out, further ones are only counted", table, reason
                )
            self.refused[table, reason] += 1

    def _drop_beyond_bound(self) -> None:
        """Keep the newest slabs that nobody uses, up to the bound on all."""
        idle = [tag for tag in self.slabs if tag not in self.kept]
        for tag in idle[: max(0, len(self.slabs) - _MOST_SLABS)]:
            _log.warning(
                "dropped %d rows of version %016x: more than %d versions", len(self.slabs[tag]), tag, _MOST_SLABS
            )
            del self.slabs[tag]
