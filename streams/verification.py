"""`aif verify`: do the tables equal a recompute of the log, exactly, at one cut of a running system?

Per partition: the tables are read back from their changelogs up to a watermark row; that row says which source offset
they reflect; the source log up to there goes through the plain oracle; rows are compared one by one. All tables of a
lane are compared at the same cut, which exists because a batch is one transaction. Item vectors of every version that
workers keep rows of are recomputed with its model and the snapshot of activity that each row names, and compared to a
tolerance of bfloat16 rounding. What the user lane sent to item-activity is compared with what it had to accept. Last,
the stores on this machine are compared with the changelogs. Nothing waits for ever: a system that was stopped or
crashed is verified like a live one.
"""

from __future__ import annotations

import asyncio
import itertools
import time

from schemas.deployment import Deployment
from schemas.topics import LANES, all_topics
from streams.activity_check import check_activity
from streams.activity_history import ActivityHistory
from streams.checkpoint import Checkpoint
from streams.comparisons import ActivityComparison, Comparison, ItemsComparison, UsersComparison
from streams.log_reader import LogReader
from streams.partition_check import Lane, PartitionCheck, Recomputed
from streams.rollout_log import RolloutLog
from streams.source_replay import Progress, SourceReplay
from streams.sources import source_topic_ids, topic_ids
from streams.store_check import check_stores
from streams.verdicts import Verdicts
from streams.verification_report import Report

__all__ = ["Report", "verify"]


async def verify(
    deployment: Deployment, progress: Progress, checkpoint: Checkpoint | None = None, *, stores: bool = True
) -> Report:
    """Compare every table of the deployment with its log, and with `stores` the stores on this machine with the tables.

    Partitions whose log retention has cut are recomputed from `checkpoint`; where nothing differs, `checkpoint` holds
    the state of this verification afterwards. Raises BadInput where neither log nor checkpoint reaches back, where
    topics are missing or were re-created, Unavailable where the broker or an open transaction keeps it waiting.
    """
    before, after = checkpoint or Checkpoint(), Checkpoint(int(time.time() * 1000))
    report = Report()
    async with LogReader(deployment.bootstrap_servers) as reader:
        ids = await _topic_ids(deployment)
        rollout = RolloutLog(reader, deployment)
        await rollout.state()
        history = ActivityHistory(reader, deployment, ids[deployment.topic("item-activity")], before, progress)
        users: dict[int, Recomputed] = {}
        for lane in itertools.starmap(Lane, LANES.items()):
            verdicts = Verdicts(reader, deployment, lane.source)
            topic_id = ids[deployment.topic(lane.source)]
            for partition in range(deployment.partitions):
                comparison = _comparison(lane, deployment, partition, rollout, history)
                replay = SourceReplay(reader, deployment, lane.source, partition, verdicts, progress)
                check = PartitionCheck(reader, deployment, lane, partition, topic_id, comparison, replay)
                report.add(await check.run(before, after))
                if lane.source == "user-events" and check.recomputed is not None:
                    users[partition] = check.recomputed
        report.add(await check_activity(reader, deployment, users))
        if stores:
            progress("stores on this machine", 0)
            report.add(await check_stores(reader, deployment, ids))
    if report.equal and checkpoint is not None:
        checkpoint.verified_at_ms, checkpoint.partitions = after.verified_at_ms, after.partitions
    return report


def _comparison(
    lane: Lane, deployment: Deployment, partition: int, rollout: RolloutLog, history: ActivityHistory
) -> Comparison:
    if lane.source == "item-updates":
        return ItemsComparison(deployment, partition, rollout, history)
    return UsersComparison(deployment) if lane.source == "user-events" else ActivityComparison(deployment)


async def _topic_ids(deployment: Deployment) -> dict[str, int]:
    """Ids of all topics; refuses a deployment whose topics are missing or have other partition counts."""
    split = [deployment.topic(topic.name) for topic in all_topics() if topic.partitions == "deployment"]
    whole = [deployment.topic(topic.name) for topic in all_topics() if topic.partitions == 1]
    servers = deployment.bootstrap_servers
    return await asyncio.to_thread(lambda: source_topic_ids(deployment, split) | topic_ids(servers, whole))
