"""Slot tables of one partition brought up to date beside live updates: the rebuild's scans, and their counts.

A slot's rows are looked at in the order of table items. A row is *stale* where the version, the item's update or its
snapshot of activity has moved on since it was made; stale ones are made again, from the items as they are under the
partition's lock, so that a piece of the scan can neither overwrite what is newer nor raise what is deleted. What has a
row already is only looked at: the content of the slot is the scan's cursor. A new owner of the partition begins again
at the first key and finds by itself what is left to do.

Counts are exact at every moment: the scan counts what it passes, and an update of an item behind it is counted when it
is applied. An item behind the scan has a row, or is rejected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from domain.activity_row import Snapshots
from domain.rollout import SLOTS, Phase, Version
from schemas.codec import codec
from schemas.records import BuildProgress
from streams.fold import Outgoing, TableReader, Writes
from streams.item_model import Feed, ItemModel
from streams.store import Row

__all__ = ["Build", "PartitionSlots"]

#: Between two reports on a build.
_REPORT_EVERY_S: Final = 1.0
#: Rejected items of a partition that are remembered, by key. A version that makes more of them is of no use.
_MOST_REJECTED: Final = 50_000
#: Looking at a key alone takes a small part of what looking at an item does.
_KEYS_PER_ITEM: Final = 16
_ORDER: Final = (Phase.LIVE, Phase.BUILDING, Phase.COVERED, Phase.RETAINED)


@dataclass
class Build:
    """How far one slot's scan of this partition is, in this ownership of it."""

    version: str
    epoch: int
    after: bytes = b""  #: the last key that it has passed
    done: bool = False
    looked: int = 0  #: items behind the scan, deleted ones included
    rejected: set[bytes] = field(default_factory=set)
    items_per_s: float = 0.0
    began_s: float = 0.0  #: this and the next: of the clock, 0 before
    reported_s: float = 0.0
    told_problem: str = ""

    @property
    def written(self) -> int:
        """Items behind the scan that have a row."""
        return self.looked - len(self.rejected)

    def passed(self, key: bytes) -> bool:
        """Whether the scan is through with a key."""
        return self.done or key <= self.after

    def applied(self, rows: Iterable[Row], new: set[bytes]) -> None:
        """Take note of rows that updates or snapshots made; items in `new` had no row in table items before."""
        for key, value in rows:
            if self.passed(key):
                self.looked += key in new
                self.judge(key, value)

    def judge(self, key: bytes, value: bytes | None) -> None:
        """Take note whether an item behind the scan was rejected."""
        if value is None:
            self.rejected.add(key)
        else:
            self.rejected.discard(key)

    @property
    def problem(self) -> str:
        """What is wrong with the version, empty where nothing."""
        if len(self.rejected) < _MOST_REJECTED:
            return ""
        return f"more than {_MOST_REJECTED:,} items of a partition have vectors that are not finite"


class PartitionSlots:
    """The slots of one partition for the time that it is owned. For use under the partition's lock."""

    def __init__(self, partition: int, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._partition, self._worker, self._clock = partition, worker, clock
        self.builds: dict[str, Build] = {}
        #: Items of the partition, deleted ones included: counted once, then kept. None before.
        self._items: int | None = None
        self._counted, self._counted_to = 0, b""
        self._emptying: dict[str, bytes] = {}
        self._empty: set[str] = set()
        self.snapshots_next = True  #: whether announced snapshots have the next turn

    # -- updates -------------------------------------------------------------------------------------------------

    def applied(self, rows: Mapping[str, Sequence[Row]], new: set[bytes]) -> None:
        """Take note of rows that updates or snapshots made, by slot; items in `new` were not there before."""
        for slot, build in self.builds.items():
            build.applied(rows.get(slot, ()), new)
        if self._items is not None:
            self._items += len(new)
        else:
            self._counted += sum(key <= self._counted_to for key in new)

    # -- pieces --------------------------------------------------------------------------------------------------

    def piece(
        self,
        feeds: Mapping[str, Feed],
        tables: TableReader,
        activity: Callable[[list[bytes]], Snapshots | None],
        limit: int,
    ) -> tuple[Writes | None, bool, int]:
        """The next piece of work, over up to `limit` items: its changes, whether there may be more, rows looked at."""
        self._begin(feeds)
        if (problem := self._problem(feeds)) is not None:
            return problem, True, 0
        for slot, feed in sorted(feeds.items(), key=lambda each: _ORDER.index(each[1].version.phase)):
            build = self.builds.get(slot)
            if build is None or build.done or build.problem or not feed.scanned:
                continue
            if feed.building and self._items is None:
                self._count(tables, limit * _KEYS_PER_ITEM)
                return None, True, limit
            keys = tables.entity_keys("items", build.after, limit)
            shown = activity(keys)
            if shown is None:
                return None, False, 0
            return self._scanned(slot, feed, build, keys, shown, tables), True, len(keys)
        return self._emptied(feeds, tables, limit)

    def _begin(self, feeds: Mapping[str, Feed]) -> None:
        for slot in set(self.builds) - set(feeds):
            del self.builds[slot]
        for slot, feed in feeds.items():
            self._empty.discard(slot)
            self._emptying.pop(slot, None)
            build, version = self.builds.get(slot), feed.version
            if build is None or (build.version, build.epoch) != (version.name, version.build_epoch):
                build = self.builds[slot] = Build(version.name, version.build_epoch)
            if feed.model is not None and not build.began_s:
                build.began_s = self._clock()

    def _problem(self, feeds: Mapping[str, Feed]) -> Writes | None:
        """A report on a version that is building and cannot be built here, unless it was reported."""
        for slot, feed in feeds.items():
            build = self.builds[slot]
            problem = feed.problem or build.problem
            if feed.building and problem != build.told_problem:
                build.told_problem = problem
                return Writes({}, outgoing=[self._report(feed.version, build)])
        return None

    def _count(self, tables: TableReader, limit: int) -> None:
        keys = tables.entity_keys("items", self._counted_to, limit)
        self._counted += len(keys)
        if keys:
            self._counted_to = keys[-1]
        else:
            self._items = self._counted

    def _scanned(
        self, slot: str, feed: Feed, build: Build, keys: list[bytes], activity: Snapshots, tables: TableReader
    ) -> Writes | None:
        assert feed.model is not None
        rows, rejected = remade(feed.model, slot, keys, activity, tables)
        build.looked += len(keys)
        for key in rejected:
            build.judge(key, None)
        now = self._clock()
        build.items_per_s = build.looked / max(now - build.began_s, 1e-3)
        if keys:
            build.after = keys[-1]
        else:
            build.done = True
            self._items = build.looked
        reports = []
        if feed.building and (build.done or now - build.reported_s >= _REPORT_EVERY_S):
            build.reported_s = now
            reports = [self._report(feed.version, build)]
        return Writes({slot: rows} if rows else {}, outgoing=reports) if rows or reports else None

    def _report(self, version: Version, build: Build) -> Outgoing:
        record = BuildProgress(
            version=version.name,
            partition=self._partition,
            build_epoch=version.build_epoch,
            items=build.looked if build.done else self._items or 0,
            written=build.written,
            rejected=len(build.rejected),
            done=build.done,
            items_per_s=build.items_per_s,
            problem=build.told_problem,
            worker=self._worker,
            event_time_ms=int(time.time() * 1000),
        )
        key = f"{version.name}/{self._partition}".encode()
        return Outgoing("build-progress", 0, key, codec("build_progress").encode(record))

    def _emptied(self, feeds: Mapping[str, Feed], tables: TableReader, limit: int) -> tuple[Writes | None, bool, int]:
        """Delete rows of a slot that no version has any more.

        Only where a version is live: before, nobody has decided on what is there.
        """
        if not any(feed.version.phase is Phase.LIVE for feed in feeds.values()):
            return None, False, 0
        for slot in SLOTS:
            if slot in feeds or slot in self._empty:
                continue
            after = self._emptying.get(slot, b"")
            keys = tables.entity_keys(slot, after, limit)
            if keys:
                self._emptying[slot] = keys[-1]
                return Writes({slot: [(key, None) for key in keys]}), True, len(keys)
            self._emptying.pop(slot, None)
            self._empty.add(slot)
        return None, False, 0


def remade(
    model: ItemModel, slot: str, keys: list[bytes], activity: Snapshots, tables: TableReader
) -> tuple[list[Row], list[bytes]]:
    """New rows of those of these items whose row is stale, and the keys of the rejected ones.

    A rejected item is made again at every look: nothing says of what it was rejected.
    """
    standing = codec("item_row").leading(4)
    found = zip(tables.get_many("items", keys), tables.get_many(slot, keys), activity.made_ms.tolist(), strict=True)
    stale: dict[int, Any] = {}
    absent: set[bytes] = set()
    for place, (item, record, made_ms) in enumerate(found):
        if item is not None and (record is None or not model.made(record, standing(item), made_ms)):
            stale[place] = item
            if record is None:
                absent.add(keys[place])
    if not stale:
        return [], []
    decode: Any = codec("item_row").decode
    rows = model.n2o_rows([decode(item) for item in stale.values()], activity.take(list(stale)))
    rejected = [key for key, value in rows if value is None]
    return [(key, value) for key, value in rows if value is not None or key not in absent], rejected
