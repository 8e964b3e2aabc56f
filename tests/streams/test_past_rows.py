from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from planted import user_event

from domain.n2o import N2OLayout
from domain.rollout import SLOTS
from domain.user_row import FINGERPRINT
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import chunk_key, entity_key
from streams.log_reader import Bounds
from streams.past_rows import PastRows

LAYOUT = N2OLayout(4, 2, 64)
USER, NOW_MS = 7, 1_700_000_000_000


class Record(NamedTuple):
    """A changelog record."""

    offset: int
    key: bytes
    value: bytes | None


class Log:
    """A reader of one partition in memory."""

    def __init__(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        self._records = [Record(offset, *row) for offset, row in enumerate(rows)]

    async def bounds(self, tp: Any) -> Bounds:
        """All of it."""
        return Bounds(0, len(self._records), len(self._records))

    async def records(self, tp: Any, start: int, end: int) -> AsyncIterator[Record]:
        """From `start` to `end` - 1."""
        for record in self._records[start:end]:
            yield record


def past(rows: list[tuple[bytes, bytes | None]], table: str, below: int) -> PastRows:
    """Rows of a log of one partition as they were below an offset."""
    return PastRows(Deployment(partitions=1), Log(rows), {table: {0: below}})


def user_log(count: int, at_a_time: int) -> list[tuple[bytes, bytes | None]]:
    """What a worker writes for a user who clicks on items 0, 1, 2, ... `at_a_time` by batch: chunks, then the head."""
    heads: dict[int, bytes] = {}
    chunks: dict[tuple[int, int], bytes] = {}
    log: list[tuple[bytes, bytes | None]] = []
    encode = codec("user_chunk").encode
    for start in range(0, count, at_a_time):
        places = range(start, min(count, start + at_a_time))
        events = [user_event(place + 1, USER, place, NOW_MS + place, "click") for place in places]
        batch = EventBatch.of(list(places), events)
        folded = fold(heads, batch, 1, read_chunks=lambda wanted: {key: chunks[key] for key in wanted if key in chunks})
        for (user, number), packed in folded.chunks.items():
            chunks[user, number] = packed
            log.append((chunk_key(user, number), encode({"fingerprint": FINGERPRINT, "behaviours": packed})))
        heads.update(folded.heads)
        log.append((entity_key(USER), heads[USER]))
        log.append((entity_key(USER + 1), heads[USER]))  # somebody else's
    return log


@pytest.mark.parametrize(("count", "at_a_time"), [(5, 5), (40, 7), (300, 50), (700, 64)])
def test_a_users_whole_history_is_found_at_every_batch(count, at_a_time) -> None:
    """Newest first, without gap or repetition, through head and chunks, as of each batch's end."""
    log = user_log(count, at_a_time)
    ends = [place + 1 for place, (key, _) in enumerate(log) if key == entity_key(USER)]
    for batch, end in enumerate(ends, 1):
        found = asyncio.run(past(log, "users", end).user(USER))
        assert found.offset == end - 1
        assert found.newest_first["item_id"].tolist() == list(range(min(count, batch * at_a_time)))[::-1]


def test_a_user_without_a_row_has_nothing() -> None:
    """None before the first row and after a deletion; somebody else's row is never taken."""
    log = [*user_log(3, 3), (entity_key(USER), None)]
    for below in (0, len(log)):
        found = asyncio.run(past(log, "users", below).user(USER))
        assert found.head is None and found.offset is None and not len(found.newest_first)


@pytest.mark.parametrize("slot", SLOTS)
def test_records_are_the_newest_of_their_version_below_the_offset(slot: str) -> None:
    """Later rows, rows of other versions and other items are left out, in every slot; a deletion takes a row away."""
    encode = codec("n2o_row").encode

    def row(item: int, tag: int, time_ms: int) -> tuple[bytes, bytes]:
        record = LAYOUT.empty(1)
        record["item_id"], record["version"], record["event_time_ms"] = item, tag, time_ms
        return entity_key(item), encode({"record": record[0].tobytes()})

    log = [
        row(1, 5, 10),
        row(2, 5, 11),
        row(1, 5, 12),
        row(1, 6, 13),
        row(3, 5, 14),
        (entity_key(2), None),
        row(1, 5, 15),
    ]
    ids = np.array([1, 2], dtype=np.int64)
    found = {
        below: {
            int(record["item_id"]): int(record["event_time_ms"])
            for record in asyncio.run(past(log, slot, below).records(ids, LAYOUT, 5)).records
        }
        for below in (0, 1, 2, 4, 6, 7)
    }
    assert found == {0: {}, 1: {1: 10}, 2: {1: 10, 2: 11}, 4: {1: 12, 2: 11}, 6: {1: 12}, 7: {1: 15}}


def test_an_offset_beyond_the_changelog_is_another_deployments() -> None:
    """What was applied cannot lie beyond the end."""
    with pytest.raises(BadInput, match="ends at offset 4, the answer was made at 9"):
        asyncio.run(past(user_log(3, 3) * 2, "users", 9).user(USER))
