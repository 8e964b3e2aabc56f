"""What a dead letter says of itself, and which can be sent again."""

import asyncio
import time

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from fleet import create_topics

from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import entity_key
from schemas.records import DeadLetter
from streams.dead_letters import UNREADABLE, LetterLog, parse_coordinates, source_named
from streams.letter_replay import refusal, unreplayable
from streams.readable import readable_bytes, readable_key

DEPLOYMENT = Deployment(prefix="night-1-", embedding_dim=4)
NOW_MS = int(time.time() * 1000)


def letter(**changes: object) -> DeadLetter:
    """A letter of a good user event, changed."""
    event = {
        "event_id": 1, "user_id": 7, "item_id": 2, "event_time_ms": NOW_MS, "action": "click", "category_id": None,
        "value": None,
    }  # fmt: skip
    whole = {
        "reason": "far_future", "detail": "", "topic": "night-1-user-events", "partition": 3, "offset": 5,
        "append_time_ms": NOW_MS, "key": entity_key(7), "value": codec("user_event").encode(event),
    }  # fmt: skip
    return {**whole, **changes}  # type: ignore[typeddict-item, return-value]


@pytest.mark.parametrize("text", ["user-events-3-5", "night-1-user-events-3-5", "user-events-03-5"])
def test_coordinates_are_taken_with_and_without_the_prefix(text: str) -> None:
    """The key of a letter is found from what a person types, whichever name of the topic they use."""
    assert parse_coordinates(text, DEPLOYMENT) == ("user-events", "night-1-user-events-3-5")


@pytest.mark.parametrize("text", ["user-events", "item-updates", "user-events-3-", "user-events-3-x", "user-events--5"])
def test_what_is_no_coordinates_may_be_a_source(text: str) -> None:
    """Text without two numbers at its end is not taken for coordinates."""
    assert parse_coordinates(text, DEPLOYMENT) is None


def test_unknown_sources_are_refused_with_those_there_are() -> None:
    """A topic that is no source is named together with the sources."""
    with pytest.raises(BadInput, match=r"'users'.*item-updates, user-events"):
        source_named("users", DEPLOYMENT)
    with pytest.raises(BadInput, match="'users-changelog'"):
        parse_coordinates("users-changelog-0-5", DEPLOYMENT)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"value": None}, ""),
        ({"key": None}, "null key"),
        ({"key": b"12345"}, "malformed key (5 bytes, not 8)"),
        ({"topic": "other-user-events"}, "is of topic other-user-events"),
    ],
)
def test_only_keyed_records_of_this_deployment_can_be_sent_again(changes: dict[str, object], why: str) -> None:
    """A record whose partition cannot be known, or that is another deployment's, is not replayable, and why is said."""
    assert unreplayable(letter(**changes), "user-events", DEPLOYMENT) == why


def test_model_versions_need_no_id_as_key() -> None:
    """Topic model-versions has one partition: any key will do."""
    assert unreplayable(letter(topic="night-1-model-versions", key=b"model"), "model-versions", DEPLOYMENT) == ""


def test_refusal_judges_as_the_worker_does_now() -> None:
    """The record is decoded and checked by the settings of this process at the time it would be written."""
    assert refusal(letter(), "user-events", DEPLOYMENT, NOW_MS) is None
    ahead = refusal(letter(), "user-events", DEPLOYMENT, NOW_MS - 2 * DEPLOYMENT.future_tolerance_ms)
    assert ahead is not None and ahead.reason == "far_future"
    mismatch = refusal(letter(key=entity_key(8)), "user-events", DEPLOYMENT, NOW_MS)
    assert mismatch is not None and mismatch.reason == "key_mismatch"
    junk = refusal(letter(value=b"{}"), "user-events", DEPLOYMENT, NOW_MS)
    assert junk is not None and junk.reason == "not_single_object"


def test_values_are_decoded_as_far_as_possible() -> None:
    """A value is shown decoded, also where it is of another schema; else as text; and always as hex."""
    value = letter()["value"]
    assert value is not None
    right = readable_bytes(value, "user_event")
    assert right["decoded"]["user_id"] == 7 and right["schema"] == "user_event" and "problem" not in right
    other = readable_bytes(value, "item_update")
    assert other["decoded"]["user_id"] == 7 and other["problem"].startswith("unknown_schema")
    assert readable_bytes(b'{"user": 7}', "user_event")["text"] == '{"user": 7}'
    cut = readable_bytes(value[:-3], "user_event")
    assert cut["hex"] == value[:-3].hex() and cut["problem"].startswith("undecodable") and "decoded" not in cut
    assert readable_bytes(None, "user_event")["hex"] is None


def test_keys_are_hex_and_id() -> None:
    """An 8-byte key is shown with its id, any other as hex alone."""
    assert readable_key(entity_key(-2)) == {"hex": "fffffffffffffffe", "id": -2}
    assert readable_key(b"ab") == {"hex": "6162"}
    assert readable_key(None) is None


def test_embeddings_are_numbers_abbreviated_on_request() -> None:
    """An embedding is shown as float32 values, all of them or the first ones."""
    update = {
        "event_id": 1, "item_id": 2, "event_time_ms": 3, "op": "upsert",
        "embedding": np.arange(8, dtype="<f4").tobytes(),
    }  # fmt: skip
    value = codec("item_update").encode(update)
    assert readable_bytes(value, "item_update")["decoded"]["embedding"] == list(range(8))
    short = readable_bytes(value, "item_update", full=False)["decoded"]["embedding"]
    assert short == "8 float32: 0, 1, 2, 3, …"


@pytest.mark.broker
def test_a_settled_reading_waits_for_open_transactions(deployment: Deployment) -> None:
    """Letters of a transaction that is open now are waited for before a replay, and not shown by a plain look."""
    create_topics(deployment)
    topic = deployment.dead_letters("user-events")

    async def look() -> tuple[dict[str, str], dict[str, str]]:
        producer = AIOKafkaProducer(bootstrap_servers=deployment.bootstrap_servers, transactional_id=deployment.prefix)
        await producer.start()
        async with LetterLog(deployment, "user-events") as log:
            async with producer.transaction():
                await producer.send_and_wait(topic, codec("dead_letter").encode(letter()), b"user-events-3-5")
                await producer.send_and_wait(topic, b"junk", b"user-events-3-6")
                await producer.send_and_wait(topic, b"junk", b"user-events-3-7")
                plain = await log.entries()
                waiting = asyncio.create_task(log.entries(settled=True))
                await asyncio.sleep(1)
                assert not waiting.done()
                await producer.send_and_wait(topic, None, b"user-events-3-7")
            settled = await waiting
        await producer.stop()
        return tuple({key: entry.reason for key, entry in each.items()} for each in (plain, settled))  # type: ignore[return-value]

    plain, settled = asyncio.run(look())
    assert plain == {}
    assert settled == {"user-events-3-5": "far_future", "user-events-3-6": UNREADABLE, "user-events-3-7": UNREADABLE}
