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

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from domain.activity_row import Snapshots
from domain.item_column_kernel import decoded_items
from domain.item_columns import ItemColumns
from domain.rollout import SLOTS, Phase, Version
from schemas.codec import codec
from schemas.records import BuildProgress
from streams.fold import Outgoing, TableReader, Writes
from streams.item_model import Feed, ItemModel
from streams.store import Row

__all__ = ["Build", "PartitionSlots", "remade"]

logger = logging.getLogger(__name__)

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
    items_per_s: float = 0.0  #: since the last report but one; over all once it is done
    began_s: float | None = None  #: this and the next: of the clock, None before
    reported_s: float | None = None
    reported: int = 0  #: items looked at then
    told_problem: str = ""

    @property
    def written(self) -> int:
        """Items behind the scan that have a row."""
        return self.looked - len(self.rejected)

    def due(self, now_s: float) -> bool:
        """Whether a report is due, whose rate is known then."""
        if self.began_s is None:
            self.began_s = now_s
        since_s = now_s - (self.began_s if self.reported_s is None else self.reported_s)
        if self.reported_s is not None and since_s < _REPORT_EVERY_S and not self.done:
            return False
        if self.done:
            since_s, self.reported = now_s - self.began_s, 0
        if since_s > 0:
            self.items_per_s = (self.looked - self.reported) / since_s
        self.reported_s, self.reported = now_s, self.looked
        return True

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
        self._withdrawn: set[str] = set()  #: versions whose report was deleted, and that were not fed since
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
        outdated: Collection[str] = (),
    ) -> tuple[Writes | None, bool, int]:
        """The next piece of work, over up to `limit` items: its changes, whether there may be more, rows looked at.

        `outdated` are versions that build-progress holds a report of for this partition, and that were not fed when
        that was looked at.
        """
        self._begin(feeds)
        if (said := self._problem(feeds) or self._withdrawal(feeds, outdated)) is not None:
            return said, True, 0
        for slot, feed in sorted(feeds.items(), key=lambda each: _ORDER.index(each[1].version.phase)):
            build = self.builds.get(slot)
            if build is None or build.done or build.problem or not feed.scanned:
                continue
            if feed.building and self._items is None:
                self._count(tables, limit * _KEYS_PER_ITEM)
                return None, True, limit
            page = tables.entity_rows("items", build.after, limit)
            shown = activity([key for key, _ in page])
            if shown is None:
                return None, False, 0
            return self._scanned(slot, feed, build, page, shown, tables), True, len(page)
        return self._emptied(feeds, tables, limit)

    def _begin(self, feeds: Mapping[str, Feed]) -> None:
        for slot in set(self.builds) - set(feeds):
            del self.builds[slot]
        for slot, feed in feeds.items():
            self._empty.discard(slot)
            self._emptying.pop(slot, None)
            self._withdrawn.discard(feed.version.name)
            build, version = self.builds.get(slot), feed.version
            if build is None or (build.version, build.epoch) != (version.name, version.build_epoch):
                self.builds[slot] = Build(version.name, version.build_epoch)

    def _problem(self, feeds: Mapping[str, Feed]) -> Writes | None:
        """A report on a version that is building and cannot be built here, unless it was reported."""
        for slot, feed in feeds.items():
            build = self.builds[slot]
            problem = feed.problem or build.problem
            if feed.building and problem != build.told_problem:
                build.told_problem = problem
                return Writes({}, outgoing=[self._report(feed.version, build)])
        return None

    def _withdrawal(self, feeds: Mapping[str, Feed], outdated: Collection[str]) -> Writes | None:
        """Deletions of the reports on versions that are gone, whoever wrote them.

        Only the owner of the partition reports on it, in order and fenced: no deletion can follow a report on a later
        build of the same version.
        """
        gone = set(outdated) - self._withdrawn - {feed.version.name for feed in feeds.values()}
        if not gone:
            return None
        self._withdrawn |= gone
        logger.info("partition %d: reports on builds of %s are deleted: gone", self._partition, ", ".join(sorted(gone)))
        return Writes({}, outgoing=[self._said(version, None) for version in sorted(gone)])

    def _said(self, version: str, report: bytes | None) -> Outgoing:
        return Outgoing("build-progress", 0, f"{version}/{self._partition}".encode(), report)

    def _count(self, tables: TableReader, limit: int) -> None:
        keys = tables.entity_keys("items", self._counted_to, limit)
        self._counted += len(keys)
        if keys:
            self._counted_to = keys[-1]
        else:
            self._items = self._counted

    def _scanned(
        self, slot: str, feed: Feed, build: Build, page: list[tuple[bytes, bytes]], activity: Snapshots,
        tables: TableReader,
    ) -> Writes | None:  # fmt: skip
        keys = [key for key, _ in page]
        rows, rejected = self._made(slot, feed.model, build.after, keys, [value for _, value in page], activity, tables)
        build.looked += len(keys)
        for key in rejected:
            build.judge(key, None)
        if keys:
            build.after = keys[-1]
        else:
            build.done = True
            self._items = build.looked
            logger.log(
                logging.WARNING if build.rejected else logging.INFO,
                "partition %d: %s has the rows of model %s (%s): %d items, %d of them rejected", self._partition, slot,
                build.version, feed.version.phase, build.looked, len(build.rejected),
            )  # fmt: skip
        reports = [self._report(feed.version, build)] if build.due(self._clock()) and feed.building else []
        if not rows and not reports:
            return None
        return Writes({slot: rows} if rows else {}, counts={"not_finite": len(rejected)}, outgoing=reports)

    @staticmethod
    def _made(
        slot: str, model: ItemModel | None, after: bytes, keys: list[bytes], values: list[bytes], activity: Snapshots,
        tables: TableReader,
    ) -> tuple[list[Row], list[bytes]]:  # fmt: skip
        """`remade`, of a page of table items behind `after`."""
        if model is None or not keys:
            return [], []
        # The slot's rows of the same range, one after the other: half the time of looking up each.
        there = dict(tables.entity_rows(slot, after, 2 * len(keys), keys[-1]))
        found = [there.get(key) for key in keys] if there else [None] * len(keys)
        return remade(model, keys, decoded_items(values, model.row_format), found, activity)

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
        return self._said(version.name, codec("build_progress").encode(record))

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
            if self._emptying.pop(slot, None) is not None:
                logger.info("partition %d: %s is free and empty", self._partition, slot)
            self._empty.add(slot)
        return None, False, 0


def remade(
    model: ItemModel, keys: Sequence[bytes], items: ItemColumns, found: Sequence[bytes | None], activity: Snapshots
) -> tuple[list[Row], list[bytes]]:
    """New rows of those of these items whose row in the slot, `found`, is stale; and the keys of rejected items.

    A rejected item is made again at every look: nothing says of what it was rejected.
    """
    stale = model.stale(found, items, activity.made_ms)
    if not len(stale):
        return [], []
    places = stale.tolist()
    if len(places) < len(keys):
        items, activity = items.take(stale), activity.take(stale)
    rows = model.n2o_rows([keys[place] for place in places], items, activity)
    rejected = [key for key, value in rows if value is None]
    if rejected:  # what has no row needs no deletion
        rows = [row for row, place in zip(rows, places, strict=True) if row[1] is not None or found[place] is not None]
    return rows, rejected
