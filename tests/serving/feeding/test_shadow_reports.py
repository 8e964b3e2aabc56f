"""A host's sums on their way to topic shadow-reports."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from domain.shadow import Pair, ShadowSums
from producers.connection import consumer_client
from producers.topics import create_topics
from schemas.codec import codec
from schemas.deployment import Deployment
from serving.feeding.shadow_reports import TOPIC, ShadowReporter
from serving.rollout.shadow_board import ShadowBoard

PAIR = Pair("00000000000000aa", 7, "00000000000000bb")
SEEN = ShadowSums(requests=2, overlap_sum=1.5, shift_sum=-0.25)


def newest(deployment: Deployment) -> tuple[int, dict[bytes, dict]]:
    """How many records the topic has, and the newest by key."""
    from kafka import TopicPartition

    partition, found = TopicPartition(deployment.topic(TOPIC), 0), []
    with consumer_client(deployment) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        while consumer.position(partition) < end:
            found += consumer.poll(timeout_ms=200).get(partition, [])
    return len(found), {each.key: codec("shadow_report").decode(each.value) for each in found}


@pytest.mark.broker
def test_sums_are_told_where_they_changed(deployment: Deployment, tmp_path) -> None:
    """First that the node is there, then what it saw, once; after the flip what came until then."""
    create_topics(deployment)
    board, pair = ShadowBoard(tmp_path), [None, PAIR, PAIR, PAIR, None, None]
    row, turns = board.claim(), iter(pair)
    reporter = ShadowReporter(deployment, board, 0.25, lambda: next(turns), wall_s=lambda: 12.0)

    async def report() -> None:
        await reporter.turn()  # nothing is compared
        await reporter.turn()  # the node says that it is there
        row.add(PAIR, SEEN)
        await reporter.turn()
        await reporter.turn()  # nothing new
        row.add(PAIR, SEEN)
        await reporter.turn()  # live by now
        await reporter.turn()
        await reporter._close()

    asyncio.run(report())
    count, found = newest(deployment)
    assert count == 3
    (told,) = found.values()
    key = f"{PAIR.version}/{board.node}".encode()
    assert list(found) == [key]
    about = {"node": board.node, "event_time_ms": 12_000, "share": 0.25, **PAIR._asdict()}
    assert told == {**about, **vars(SEEN + SEEN)}


def test_without_a_broker_it_goes_on_and_says_so_once(tmp_path, caplog) -> None:
    """Nothing is raised, one line is logged, and what was not told stays due."""
    away = replace(Deployment(), bootstrap_servers="127.0.0.1:1")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    reporter = ShadowReporter(away, ShadowBoard(tmp_path), 0.25, lambda: PAIR)

    async def report() -> None:
        await reporter.turn()
        await reporter.turn()

    asyncio.run(report())
    assert sum("shadow scores are not reported" in each.message for each in caplog.records) == 1
    assert reporter.due() == (PAIR, ShadowSums())


def test_it_ends_when_told(tmp_path) -> None:
    """`run` returns soon after `stop`, with a broker that is away too."""
    away = replace(Deployment(), bootstrap_servers="127.0.0.1:1")
    reporter = ShadowReporter(away, ShadowBoard(tmp_path), 0.25, lambda: PAIR)

    async def report() -> None:
        running = asyncio.create_task(reporter.run())
        await asyncio.sleep(0)
        reporter.stop()
        await asyncio.wait_for(running, 30)

    asyncio.run(report())
