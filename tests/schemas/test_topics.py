"""The topic table holds together."""

from __future__ import annotations

import re

import pytest

from schemas.codec import codec, schema_names
from schemas.topics import REFUSING, TABLES, TOPICS, all_topics, changelog_topic, dead_letter_topic

every_topic = pytest.mark.parametrize("topic", all_topics(), ids=lambda topic: topic.name)


@every_topic
def test_schemas_exist_and_names_are_legal(topic) -> None:
    """Every topic's schema is one of ours, and Kafka accepts its name with room for a prefix."""
    assert codec(topic.schema).fingerprint
    assert re.fullmatch(r"[a-z0-9_.-]{1,200}", topic.name)
    assert topic.writers
    assert topic.readers
    assert topic.promise


def test_names_are_unique() -> None:
    """No two topics share a name."""
    names = [topic.name for topic in all_topics()]
    assert len(names) == len(set(names))


def test_every_schema_travels_somewhere() -> None:
    """A schema is some topic's, or of rows behind or beside a table's own, or the watermark row of every changelog."""
    beside = {schema for table in TABLES.values() for schema in (table.chunk_schema, table.source_schema) if schema}
    assert {topic.schema for topic in all_topics()} | beside | {"watermark"} == set(schema_names())


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_a_table_is_partitioned_as_its_source(table) -> None:
    """A table's changelog has its source's key and partition count, is compacted, and never expires."""
    source = TOPICS[table.source]
    changelog = next(topic for topic in all_topics() if topic.name == changelog_topic(table.name))
    assert (changelog.key, changelog.partitions) == (source.partitioned_by or source.key, source.partitions)
    assert (changelog.cleanup, changelog.retention_ms) == ("compact", None)
    assert changelog.schema == table.schema


def test_what_others_write_has_dead_letters() -> None:
    """Topics that anybody may write to have a dead-letter topic; those that only programs of ours write have none."""
    dead = {topic.name for topic in all_topics() if topic.schema == "dead_letter"}
    assert dead == set(map(dead_letter_topic, REFUSING))
    assert set(TOPICS) - set(REFUSING) == {"rollout", "build-progress", "shadow-reports"}


@pytest.mark.parametrize("name", REFUSING)
def test_dead_letters_are_compacted(name) -> None:
    """What a source's readers refuse has a topic, compacted so that a second reading does not repeat it."""
    dead = next(topic for topic in all_topics() if topic.name == dead_letter_topic(name))
    assert dead.schema == "dead_letter"
    assert "compact" in dead.cleanup


@pytest.mark.parametrize("name", TOPICS)
def test_sources_carry_the_brokers_time(name) -> None:
    """Validity is decided against the time the broker wrote, so every source topic must have it."""
    assert TOPICS[name].timestamps == "LogAppendTime"


def test_retention_covers_the_longest_window() -> None:
    """Events are kept longer than they can count, so that a rebuild from the log sees all of them."""
    assert TOPICS["user-events"].retention_ms > 8 * 86_400_000
    assert TOPICS["model-versions"].retention_ms is None
