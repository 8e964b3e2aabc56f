"""Stores brought up to their changelogs, and kept there."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from fleet import create_topics
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from schemas.deployment import Deployment
from schemas.ids import entity_key
from streams.restore import ChangelogReader
from streams.sources import topic_ids
from streams.store import Store

pytestmark = pytest.mark.broker


async def _write(deployment: Deployment, tp: TopicPartition, count: int, value: bytes) -> None:
    """Rows 0 to count, in one transaction, whose marker takes an offset too."""
    name = f"{tp.topic}-writer"
    servers = deployment.bootstrap_servers
    async with AIOKafkaProducer(bootstrap_servers=servers, transactional_id=name) as sender, sender.transaction():
        for number in range(count):
            await sender.send(tp.topic, value, entity_key(number), partition=tp.partition)


def _made_again(deployment: Deployment, topic: str) -> None:
    """Delete a topic and make one of the same name."""
    servers = deployment.bootstrap_servers
    before, until_s = topic_ids(servers, [topic]), time.monotonic() + 30
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.delete_topics([topic])
    while time.monotonic() < until_s:
        try:
            admin.create_topics([NewTopic(topic, deployment.partitions, 1)])
            break
        except KafkaError:  # the broker is still deleting
            time.sleep(0.1)
    admin.wait_for_topics([topic])  # a creation is answered before the listing shows it
    admin.close()
    assert topic_ids(servers, [topic]) != before


def test_a_changelog_made_again_is_not_merged_into_a_copy_of_the_old_one(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Although the new topic has grown past the store's offset, the store begins empty and has the new rows alone."""
    create_topics(deployment)
    tp = TopicPartition(deployment.changelog("users"), 0)
    store = Store(tmp_path / "users-0.db")

    async def restored() -> int:
        async with ChangelogReader(deployment.bootstrap_servers, {tp: store}, lambda *progress: None) as reader:
            return await reader.restore()

    asyncio.run(_write(deployment, tp, 5, b"old"))
    assert asyncio.run(restored()) == 5
    assert asyncio.run(restored()) == 0
    _made_again(deployment, tp.topic)
    asyncio.run(_write(deployment, tp, 3, b"new"))
    asyncio.run(_write(deployment, tp, 3, b"newer"))
    assert asyncio.run(restored()) == 6
    assert store.entity_keys(b"", 9) == [entity_key(number) for number in range(3)]
    assert store.get_many([entity_key(0)]) == [b"newer"]
    assert (tmp_path / "users-0.db.foreign-1").is_dir()
    store.close()


def test_a_follower_knows_how_far_behind_it_is(deployment: Deployment, tmp_path: Path) -> None:
    """What is written after a standby began counts into the end that it reports, not only into its position."""
    create_topics(deployment)
    tp = TopicPartition(deployment.changelog("users"), 1)
    store, reported = Store(tmp_path / "users-1.db"), []

    async def follow() -> None:
        caught_up = asyncio.Event()

        def note(at: TopicPartition, position: int, end: int) -> None:
            reported.append((position, end))
            if (position, end) == (102, 102):
                caught_up.set()

        async with ChangelogReader(deployment.bootstrap_servers, {tp: store}, note) as reader:
            task = asyncio.create_task(reader.follow())
            for _ in range(2):
                await _write(deployment, tp, 50, b"row")
            await asyncio.wait([task, asyncio.create_task(caught_up.wait())], timeout=20, return_when="FIRST_COMPLETED")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())
    assert reported[-1] == (102, 102)
    assert all(position <= end for position, end in reported)
    store.close()
