"""Rows as they were: the newest ones of some keys that the changelogs held below given offsets.

A changelog is compacted: once a newer row has come, the older one goes, ten minutes later at the earliest. What is
looked for here is therefore found for a while, and said to be gone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from aiokafka import TopicPartition

from domain.n2o import N2OLayout
from domain.partitioner import partition_of, partitions_of
from domain.rollout import SLOTS
from domain.sequence import CHUNK, held_chunks, moved_of, unpacked_behaviours
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import CHUNK_KEY_BYTES, ENTITY_KEY_BYTES, chunk_of, entity_key
from schemas.records import UserHead
from streams.log_reader import LogReader

__all__ = ["Applied", "PastRecords", "PastRows", "PastUser"]

#: The first offset that was not applied, by table and partition.
Applied = Mapping[str, Mapping[int, int]]


class PastUser(NamedTuple):
    """A user's row as it was."""

    head: UserHead | None
    newest_first: npt.NDArray[Any]  #: [n] BEHAVIOUR_DTYPE, all that head and chunks held
    offset: int | None  #: where the head stands in the changelog


class PastRecords(NamedTuple):
    """Items' N2O rows as they were."""

    records: npt.NDArray[Any]  #: [n] of the layout's dtype, in no order


class _Row(NamedTuple):
    offset: int
    value: bytes | None


class PastRows:
    """Reads changelogs up to where they had been applied. Raises Unavailable where the broker does not answer."""

    def __init__(self, deployment: Deployment, reader: LogReader, applied: Applied) -> None:
        self._deployment = deployment
        self._reader = reader
        self._applied = applied

    async def user(self, user_id: int) -> PastUser:
        """The user's head and behaviours. Raises Corrupt where a row is of another layout."""
        own = entity_key(user_id)
        partition = partition_of(user_id, self._deployment.partitions)
        rows = await self._newest("users", partition, lambda key, _: key[:ENTITY_KEY_BYTES] == own)
        found = rows.get(own)
        if found is None or found.value is None:
            return PastUser(None, unpacked_behaviours(b""), None)
        head = cast(UserHead, codec("user_head").decode(found.value))
        chunks = {
            chunk_of(key)[1]: codec("user_chunk").decode(row.value)["behaviours"]
            for key, row in rows.items()
            if len(key) == CHUNK_KEY_BYTES and row.value is not None
        }
        return PastUser(head, _history(head, chunks)[::-1], found.offset)

    async def records(self, ids: npt.NDArray[np.int64], layout: N2OLayout, tag: int) -> PastRecords:
        """The rows that a version had made of items ([n] int64), in whichever slot; of some there may be none."""
        found: list[_Row] = []
        wanted = partitions_of(ids, self._deployment.partitions)
        prefix = codec("n2o_row").bytes_prefix(layout.stride)

        def of_version(value: bytes) -> bool:
            fits = len(value) == len(prefix) + layout.stride and value.startswith(prefix)
            return fits and bool(np.frombuffer(value, layout.dtype, offset=len(prefix))["version"][0] == tag)

        for partition in np.unique(wanted).tolist():
            keys = {entity_key(each) for each in ids[wanted == partition].tolist()}

            def is_wanted(key: bytes, value: bytes | None, keys: set[bytes] = keys) -> bool:
                return key in keys and (value is None or of_version(value))

            for slot in SLOTS:
                found += (await self._newest(slot, partition, is_wanted)).values()
        values = [row.value[len(prefix) :] for row in found if row.value is not None]
        records = np.frombuffer(b"".join(values), dtype=layout.dtype)
        return PastRecords(records)

    async def _newest(
        self, table: str, partition: int, is_wanted: Callable[[bytes, bytes | None], bool]
    ) -> dict[bytes, _Row]:
        """By key the newest wanted row below the applied offset."""
        tp = TopicPartition(self._deployment.changelog(table), partition)
        end = self._applied.get(table, {}).get(partition, 0)
        bounds = await self._reader.bounds(tp)
        if end > bounds.committed:
            raise BadInput(
                f"{tp.topic}-{partition} ends at offset {bounds.committed}, the answer was made at {end}: "
                "it is of another deployment, or the topic was made anew (--bootstrap-servers, --prefix)"
            )
        rows: dict[bytes, _Row] = {}
        if bounds.start < end:
            async for record in self._reader.records(tp, bounds.start, end):
                if is_wanted(record.key, record.value):
                    rows[record.key] = _Row(record.offset, record.value)
        return rows


def _history(head: UserHead, chunks: Mapping[int, bytes]) -> npt.NDArray[Any]:
    """A user's behaviours in log order, as far as the chunks reach back without a gap."""
    moved = moved_of(head["counted"])
    parts = [unpacked_behaviours(head["behaviours"])]
    for number in reversed(held_chunks(head["counted"])):
        told = unpacked_behaviours(chunks.get(number, b""))[: moved - number * CHUNK]
        if len(told) < min(CHUNK, moved - number * CHUNK):
            break
        parts.append(told)
    return np.concatenate(parts[::-1])
