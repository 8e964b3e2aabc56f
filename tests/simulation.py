"""A broker, disks and workers in memory, driven by a seed: the lane's real code, crashed at any of its awaits.

What is simulated is what Kafka and the file system promise, no more: transactions that become visible at once or never,
a fence that fails the writes of whoever had the id before, fetches whose records may never arrive, stores that keep
whole write batches across a crash.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from schemas.ids import WATERMARK_KEY
from streams.batching import FetchedBatch
from streams.fold import Outgoing, Piece, Writes
from streams.lane import Lane
from streams.store import Row

TOPIC_ID = 5


@dataclass
class Record:
    """A source record."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = 0


class CountFold:
    """Counts events per key: the fold that shows a lost or doubled record at once. Row: last offset, count.

    From when it is `fed`, table "built" gets every row too, scans add what it lacks, and once they are through, a
    record to topic "progress" promises that it lacks nothing from there on.
    """

    source = "events"
    tables = ("counts", "copies", "built")

    def __init__(self) -> None:
        self.fed = False

    def fold(self, partition: int, topic_id: int, records: Sequence[Any], tables: Any) -> Writes:
        """Count; a row skips what it has."""
        keys = sorted({record.key for record in records})
        rows = dict(zip(keys, (_count(value) for value in tables.get_many("counts", keys)), strict=True))
        for record in records:
            last, count = rows[record.key]
            if record.offset > last:
                rows[record.key] = record.offset, count + 1
        encoded = [(key, f"{last},{count}".encode()) for key, (last, count) in rows.items()]
        return Writes({"counts": encoded, "copies": encoded, **({"built": encoded} if self.fed else {})})

    def rebuild(self, partition: int, tables: Any, at: Any, limit: int) -> Piece:
        """Two rows of "built" that it lacks, or that are older."""
        after = at if isinstance(at, bytes) else b""
        if not self.fed or after == _THROUGH:
            return Piece(None, at, more=False)
        keys = tables.entity_keys("counts", after, 2)
        if not keys:
            return Piece(Writes({}, outgoing=[Outgoing("progress", 0, b"done", b"")]), _THROUGH, more=False)
        pairs = zip(keys, tables.get_many("counts", keys), tables.get_many("built", keys), strict=True)
        stale = [(key, count) for key, count, built in pairs if count != built]
        return Piece(Writes({"built": stale}) if stale else None, keys[-1], more=True)


#: Behind every key.
_THROUGH = b"\xff" * 16


def _count(value: bytes | None) -> tuple[int, int]:
    if value is None:
        return -1, 0
    last, count = value.decode().split(",")
    return int(last), int(count)


@dataclass
class Changelog:
    """One changelog partition: rows with their transaction; markers take offsets too."""

    rows: list[tuple[bytes, bytes | None, int] | None] = field(default_factory=list)


@dataclass
class Broker:
    """All topics, transactions and fences."""

    source: list[Record] = field(default_factory=list)
    changelogs: dict[str, Changelog] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)
    open: dict[str, int] = field(default_factory=dict)
    transactions: int = 0
    decided: bool = False  #: that "built" is to be built

    def take_over(self, identity: str) -> int:
        """Abort the id's open transaction and fence its owner; the new epoch."""
        self.open.pop(identity, None)
        self.epochs[identity] = self.epochs.get(identity, 0) + 1
        return self.epochs[identity]

    def table(self, name: str) -> dict[bytes, bytes]:
        """The committed rows of a changelog."""
        rows: dict[bytes, bytes] = {}
        for row in self.changelogs[name].rows:
            if row is not None and row[2] in self.committed and row[1] is not None:
                rows[row[0]] = row[1]
        return rows


class SimulatedWriter:
    """ChangelogWriter on the simulated broker."""

    def __init__(self, worker: Worker, identity: str) -> None:
        self._worker, self._broker, self._identity = worker, worker.broker, identity
        self.epoch = -1

    async def start(self) -> None:
        """Take over."""
        await self._worker.step()
        self.epoch = self._broker.take_over(self._identity)

    async def write(
        self, rows: Mapping[tuple[str, int], Sequence[Row]], next_offset: int, before_commit: Callable[[], None]
    ) -> dict[tuple[str, int], int]:
        """One transaction; every step may find the fence."""
        await self._worker.step()
        self._fence()
        self._broker.transactions += 1
        number = self._broker.open[self._identity] = self._broker.transactions
        last = {}
        for (topic, partition), some in rows.items():
            await self._worker.step()
            self._fence()
            log = self._broker.changelogs.setdefault(topic, Changelog())
            log.rows += [(key, value, number) for key, value in some]
            last[topic, partition] = len(log.rows) - 1
        before_commit()
        await self._worker.step()
        self._fence()
        self._broker.committed.add(number)
        del self._broker.open[self._identity]
        for topic, _ in rows:
            self._broker.changelogs[topic].rows.append(None)
        await self._worker.step()  # the answer may never arrive
        return last

    def _fence(self) -> None:
        if self._broker.epochs[self._identity] != self.epoch:
            raise Corrupt("fenced")

    async def stop(self) -> None:
        """Nothing to release."""


class SimulatedReader:
    """ChangelogReader on the simulated broker."""

    def __init__(self, worker: Worker, stores: Mapping[Any, MemoryStore], progress: Any) -> None:
        self._worker, self._stores = worker, stores

    async def __aenter__(self) -> SimulatedReader:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    async def restore(self) -> int:
        """Committed rows behind each store's offset."""
        applied = 0
        for tp, store in self._stores.items():
            log = self._worker.broker.changelogs.get(tp.topic, Changelog())
            for offset in range(store.changelog_offset + 1, len(log.rows)):
                row = log.rows[offset]
                if row is not None and row[2] in self._worker.broker.committed:
                    await self._worker.step()
                    store.put_many([row[:2]], offset)
                    applied += 1
        return applied


class MemoryStore:
    """A store whose contents outlive the worker, as a disk does."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.changelog_offset = -1

    @property
    def watermark(self) -> Any:
        """The decoded watermark row."""
        found = self.rows.get(WATERMARK_KEY)
        return None if found is None else codec("watermark").decode(found)

    def entity_keys(self, after: bytes, limit: int) -> list[bytes]:
        """Keys of rows."""
        return sorted(key for key in self.rows if key > after and key != WATERMARK_KEY)[:limit]

    def put_many(self, rows: Sequence[Row], changelog_offset: int) -> None:
        """Atomic, as a WriteBatch is."""
        assert changelog_offset > self.changelog_offset, "a store never goes back"
        for key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self.changelog_offset = changelog_offset


class MemoryTable:
    """BatchedTable over memory stores."""

    def __init__(self, name: str, disk: dict[str, MemoryStore]) -> None:
        self.name, self._disk = name, disk
        self.stores: dict[int, MemoryStore] = {}

    def open_partition(self, partition: int) -> MemoryStore:
        """Open or create."""
        return self.stores.setdefault(partition, self._disk.setdefault(f"{self.name}-{partition}", MemoryStore()))

    def close_partition(self, partition: int) -> None:
        """Forget the handle; the disk keeps the rows."""
        self.stores.pop(partition, None)

    def get_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Rows of an owned partition."""
        return [self.stores[partition].rows.get(key) for key in keys]

    def put_many(self, partition: int, rows: Sequence[Row], changelog_offset: int) -> None:
        """Write to an owned partition."""
        self.stores[partition].put_many(rows, changelog_offset)


class SimulatedConsumer:
    """The lane's view of Faust's consumer, and the fetches behind it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.held: set[Any] = set()
        self._position = 0
        self._consumed_to: int | None = None
        self._fetches = 0

    async def earliest_offsets(self, tp: Any) -> dict[Any, int]:
        """The log is whole."""
        return {tp: 0}

    async def highwaters(self, tp: Any) -> dict[Any, int]:
        """Where the log ends."""
        return {tp: len(self._worker.broker.source)}

    async def rewind(self, tp: Any, offset: int) -> int:
        """Fetch from there."""
        await self._worker.step()
        self._position = self._consumed_to = offset
        return self._fetches

    async def consumed_to(self, tp: Any) -> int | None:
        """Where the next fetch begins."""
        return self._consumed_to

    async def gap_behind(self, tp: Any) -> tuple[int, int]:
        """The log has no markers."""
        return self._consumed_to or 0, self._consumed_to or 0

    def fetch(self, most: int) -> FetchedBatch | None:
        """The next batch of the log; the position moves whether or not anybody gets it."""
        records = self._worker.broker.source[self._position : self._position + most]
        if not records or self.held or self._consumed_to is None:
            return None
        begin, self._position = self._consumed_to, self._position + len(records)
        self._consumed_to = self._position
        self._fetches += 1
        return FetchedBatch("events", 0, begin, self._position, self._fetches, list(records))


class Worker:
    """One worker process: a lane on a disk. Crashing it drops everything but the disk."""

    def __init__(self, broker: Broker, disk: dict[str, MemoryStore], seed: random.Random) -> None:
        self.broker, self._random = broker, seed
        self.exited: int | None = None
        self.crashed = False
        self._grave = asyncio.Event()
        self.awake = asyncio.Event()
        self.awake.set()
        self.crash_in: int | None = None
        self.in_flight: list[FetchedBatch] = []
        self.consumer = SimulatedConsumer(self)
        tables: Any = {name: MemoryTable(name, disk) for name in CountFold.tables}
        app: Any = SimpleNamespace(consumer=self.consumer)
        self.lane = Lane(app, Deployment(partitions=1), CountFold(), tables, self, exit_process=self._exit)
        self.lane.before_taking_over = self.read_decisions

    async def read_decisions(self) -> None:
        """What was decided by now."""
        decided = self.broker.decided
        await self.step()
        self.hear(decided)

    def hear(self, decided: bool) -> None:
        """What was decided some time ago."""
        if decided and not self.lane.fold.fed:  # type: ignore[attr-defined]
            self.lane.fold.fed = True  # type: ignore[attr-defined]
            self.lane.wake()

    async def topic_id(self, topic: str) -> int:
        """Rim."""
        return TOPIC_ID

    async def step(self) -> None:
        """Any await of the lane: others run, the process may be frozen here, or die here."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.crashed = True
        if self.crashed or self.exited is not None:
            await self._buried()
        for _ in range(self._random.randrange(3)):
            await asyncio.sleep(0)
        await self.awake.wait()
        if self.crashed or self.exited is not None:
            await self._buried()

    async def _buried(self) -> None:
        """A dead process goes no further; its threads end with it."""
        await self._grave.wait()
        raise asyncio.CancelledError

    def writer(self, source: Any) -> Any:
        """Rim."""
        return SimulatedWriter(self, f"{source.topic}-{source.partition}")

    def reader(self, stores: Any, progress: Any) -> Any:
        """Rim."""
        return SimulatedReader(self, stores, progress)

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        """Rim: blocking work, with a chance to die before and after."""
        await self.step()
        result = work(*args)
        await self.step()
        return result

    def _exit(self, code: int) -> None:
        self.exited = code

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self.crashed and self.exited is None

    async def assigned(self, owned: bool) -> None:
        """A rebalance as this worker sees it."""

        async def rebalance() -> None:
            await self.lane.revoked()
            self.in_flight.clear()
            await self.lane.assigned({TP("events", 0)} if owned else set(), set())

        task = asyncio.create_task(rebalance())
        while self.alive and not task.done():  # noqa: ASYNC110 (a scheduler of its own)
            await asyncio.sleep(0)
        if not task.done():  # the process died in it
            self._grave.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def bury(self) -> None:
        """Cancel what is left of a dead process's tasks."""
        self._grave.set()
        self.crashed = True
        self.awake.set()
        for partition in self.lane.partitions.values():
            if partition._task is not None:
                partition._task.cancel()
                await asyncio.gather(partition._task, return_exceptions=True)
