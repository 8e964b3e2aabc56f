"""Replays a data set into item-updates and user-events, at a chosen speed, from where the last run was stopped.

At least once: what was sent but not yet noted as acknowledged when a run died is sent again, with the same event ids,
which the tables recognise (the last 32 of a user). Progress is reported, never printed: that is the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from producers.checkpoint import (
    Checkpoint,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
    stream_identity,
)
from producers.datasets import Dataset, Entry
from producers.pace import Pace
from producers.sender import ITEMS, USERS, Sender
from producers.topics import require_topics
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.ids import hashed_id

__all__ = ["Options", "Status", "Summary", "replay"]

#: Small enough that a crash repeats little, large enough that the encoder and the producer work in bulk.
_BATCH_ENTRIES: Final = 1_000
_SAVE_EVERY_S: Final = 0.25
#: A pause at least this long is used to have everything acknowledged.
_REST_S: Final = 0.1


@dataclass(frozen=True)
class Options:
    """How to replay. `speed` None is as fast as possible; `rebase_to_ms` is the wall time to move the log to.

    With `speed` None the newest event moves to `rebase_to_ms`, so that none lies in the future; with a speed the first
    one does, so that the log runs on from there.
    """

    speed: float | None = None
    rebase_to_ms: int | None = None
    resume: bool = False
    give_up_after_s: float = 30.0  #: how long a broker may refuse a record


@dataclass
class Status:
    """Where a running replay is; counts are of this run and acknowledged."""

    rows: int = 0
    events: int = 0
    items: int = 0
    event_time_ms: int | None = None
    seconds: float = 0.0  #: since sending began
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """What a replay did. `offsets`: last acknowledged offset by topic and partition, earlier runs included."""

    dataset: str
    complete: bool
    events: int
    items: int
    rejects: int
    skipped: int
    seconds: float
    rate_per_s: float
    shift_ms: int
    newest_event_time_ms: int | None
    checkpoint: str
    offsets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def replay(
    dataset: Dataset,
    deployment: Deployment,
    options: Options,
    stop: threading.Event,
    report: Callable[[Status], None] = lambda status: None,
) -> Summary:
    """Send the data set, or what is left of it, and return what was done; `stop` ends it early, all sent acknowledged.

    Raises BadInput (data, mapping, missing topics, a position of another stream) and Unavailable; the position that is
    reached is saved in either case.
    """
    topic_ids = {name: state.topic_id for name, state in require_topics(deployment, ITEMS, USERS).items()}
    identity, path = stream_identity(dataset, topic_ids), checkpoint_path(deployment, dataset)
    checkpoint = load_checkpoint(path, identity) if options.resume else None
    if checkpoint is None:
        checkpoint = Checkpoint(identity, _shift_ms(dataset, options, report))
    run = _Run(dataset, checkpoint, path, Sender(deployment, give_up_after_s=options.give_up_after_s), report)
    return run.go(Pace(options.speed, stop), stop)


class _Run:
    """One run: the stream, the sender, and the position that follows the acknowledgements."""

    def __init__(
        self, dataset: Dataset, checkpoint: Checkpoint, path: Path, sender: Sender, report: Callable[[Status], None]
    ) -> None:
        self._dataset, self._checkpoint, self._path, self._sender = dataset, checkpoint, path, sender
        self._report = report
        self._status = Status()
        self._skipped = checkpoint.entries
        self._before = (checkpoint.events, checkpoint.items)
        self._started_s = time.monotonic()
        self._saved_at_s = 0.0

    def go(self, pace: Pace, stop: threading.Event) -> Summary:
        try:
            if not self._checkpoint.complete:
                self._send_all(pace, stop)
                self._sender.flush()
                self._checkpoint.complete = not stop.is_set()
        except Unavailable as error:
            raise Unavailable(f"{error}; afterwards go on with --resume") from error
        except BadInput:
            # The data is at fault, the broker is not: what was sent before the bad row counts.
            self._sender.flush()
            raise
        finally:
            # Also after an error: what is acknowledged stays acknowledged.
            self._note(force=True)
            self._sender.close()
        seconds = time.monotonic() - self._started_s
        sent = self._sender.events + self._sender.items
        return Summary(
            dataset=self._dataset.mapping.name,
            complete=self._checkpoint.complete,
            events=self._sender.events,
            items=self._sender.items,
            rejects=self._dataset.counts.rejected,
            skipped=self._skipped,
            seconds=round(seconds, 3),
            rate_per_s=round(sent / seconds, 1) if seconds else 0.0,
            shift_ms=self._checkpoint.shift_ms,
            newest_event_time_ms=self._status.event_time_ms,
            checkpoint=str(self._path),
            offsets=self._checkpoint.offsets,
        )

    def _send_all(self, pace: Pace, stop: threading.Event) -> None:
        batch: list[Entry] = []
        for entry in self._left():
            # Items before the first event are the catalogue at the start, however old: that event starts the clock.
            paced = entry[0] == "user" or pace.started
            if paced and (ahead_s := pace.ahead_s(entry[1]["event_time_ms"])) > 0:
                self._send(batch)
                batch = []
                if ahead_s > _REST_S:
                    self._sender.flush()
                    self._note(force=True)
                pace.wait(entry[1]["event_time_ms"])
            if stop.is_set():
                break
            batch.append(entry)
            if len(batch) >= _BATCH_ENTRIES:
                self._send(batch)
                batch = []
        self._send(batch)

    def _left(self) -> Iterator[Entry]:
        """Entries from the position on, moved in time."""
        entries = islice(self._dataset.entries(), self._skipped, None)
        shift_ms = self._checkpoint.shift_ms
        return (_moved(entry, shift_ms) for entry in entries) if shift_ms else entries

    def _send(self, batch: list[Entry]) -> None:
        if batch:
            self._sender.send(batch)
            self._status.event_time_ms = batch[-1][1]["event_time_ms"]
            self._note()

    def _note(self, *, force: bool = False) -> None:
        """Bring the position and the status up to the acknowledgements, and save the position now and then."""
        sender, now_s = self._sender, time.monotonic()
        self._status.rows, self._status.seconds = self._dataset.counts.rows, now_s - self._started_s
        self._status.events, self._status.items = sender.events, sender.items
        self._report(self._status)
        if force or now_s - self._saved_at_s > _SAVE_EVERY_S:
            checkpoint = self._checkpoint
            checkpoint.entries = self._skipped + sender.events + sender.items
            checkpoint.events, checkpoint.items = self._before[0] + sender.events, self._before[1] + sender.items
            for (topic, partition), offset in sender.offsets.items():
                checkpoint.offsets.setdefault(topic, {})[str(partition)] = offset
            save_checkpoint(self._path, checkpoint)
            self._saved_at_s = now_s


def _moved(entry: Entry, shift_ms: int) -> Entry:
    """The entry in another time. It is another event then: a second replay to "now" must not count as a repetition."""
    record = entry[1]
    record["event_id"] = hashed_id(f"{record['event_id']}+{shift_ms}")
    record["event_time_ms"] += shift_ms
    if entry[0] == "item" and entry[1]["published_ms"] is not None:
        entry[1]["published_ms"] += shift_ms
    return entry


def _shift_ms(dataset: Dataset, options: Options, report: Callable[[Status], None]) -> int:
    if options.rebase_to_ms is None:
        return 0
    first_event_ms = newest_ms = None
    if options.speed is None:
        report(Status(note="reading the log once to find its newest event"))
    for kind, record in dataset.entries():
        at_ms = record["event_time_ms"]
        newest_ms = at_ms if newest_ms is None else max(newest_ms, at_ms)
        if kind == "user" and first_event_ms is None:
            first_event_ms = at_ms
            if options.speed is not None:
                break
    anchor_ms = newest_ms if options.speed is None else first_event_ms
    return 0 if anchor_ms is None else options.rebase_to_ms - anchor_ms
