"""The snapshots of items' activity that vectors name, recomputed from topic item-activity."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.deployment import Deployment
from streams.activity_oracle import ActivityOracle
from streams.checkpoint import Checkpoint
from streams.log_reader import LogReader
from streams.source_replay import Progress, SourceReplay
from streams.verdicts import Verdicts
from streams.verification_report import Report

__all__ = ["ActivityHistory"]

_SOURCE = "item-activity"


class ActivityHistory:
    """Reads topic item-activity, whatever the table made from it has applied."""

    def __init__(
        self, reader: LogReader, deployment: Deployment, topic_id: int, before: Checkpoint, progress: Progress
    ) -> None:
        self._reader, self._deployment, self._topic_id = reader, deployment, topic_id
        self._before, self._progress = before, progress
        self._verdicts = Verdicts(reader, deployment, _SOURCE)

    async def until_now(self, partition: int, wanted: Mapping[int, int]) -> ActivityOracle:
        """The items of a partition after all that is committed, with the snapshots of the times in `wanted`."""
        oracle = ActivityOracle(self._deployment, self._topic_id, wanted)
        replay = SourceReplay(self._reader, self._deployment, _SOURCE, partition, self._verdicts, self._progress)
        await replay.into(oracle, self._topic_id, None, self._before, Report())
        return oracle
