"""The one table of topics and tables.

Topic creation (`aif topics create`), the worker, serving and topology.md (`aif topics document`) are all made from
what stands here. Names are without the deployment's prefix; see deployment.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "LANES",
    "REFUSING",
    "TABLES",
    "TOPICS",
    "Table",
    "Topic",
    "all_topics",
    "changelog_topic",
    "dead_letter_topic",
]

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True)
class Topic:
    """A topic: its contract and how it is kept.

    `partitions` is `"deployment"` (the deployment's partition count: topics and tables that are joined share it) or 1.
    `retention_ms` is None where every record is kept for ever. `partitioned_by` is "" where the key says it, as nearly
    everywhere. `dead_letters` is whether what a reader cannot use goes to a topic of its own: not where our own
    programs alone write, and a copy of the record is of no use.
    """

    name: str
    key: str
    schema: str
    partitions: Literal["deployment", 1]
    cleanup: Literal["delete", "compact", "compact,delete"]
    retention_ms: int | None
    timestamps: Literal["LogAppendTime", "CreateTime"]
    writers: str
    readers: str
    promise: str
    partitioned_by: str = ""
    dead_letters: bool = True


@dataclass(frozen=True)
class Table:
    """A table: RocksDB in the worker that owns the partition, and a compacted changelog topic that is its truth.

    `chunk_schema` is that of further rows behind an entity's own, under its key and a 4-byte big-endian number,
    `source_schema` that of rows which keep the progress of each source (`schemas.ids.source_key`).
    """

    name: str
    key: str
    schema: str
    source: str
    writers: str
    readers: str
    holds: str
    chunk_schema: str | None = None
    source_schema: str | None = None


def dead_letter_topic(source: str) -> str:
    """Name of the topic that takes what a source topic's readers refuse."""
    return f"{source}.dead-letter"


def changelog_topic(table: str) -> str:
    """Name of a table's changelog topic."""
    return f"{table}-changelog"


_SOURCES: Final = (
    Topic(
        "item-updates", "item_id", "item_update", "deployment", "delete", 30 * _DAY_MS, "LogAppendTime",
        "aif replay, catalogue feeds", "item agent",
        "Any order: newest (event time, offset) wins per item. The compacted truth is the items changelog.",
    ),
    Topic(
        "user-events", "user_id", "user_event", "deployment", "delete", 30 * _DAY_MS, "LogAppendTime",
        "aif replay, event collectors", "user agent",
        "In order per user as sent; late events up to the longest window count where they belong.",
    ),
    Topic(
        "item-activity", "partition of user-events", "item_activity", "deployment", "delete", 30 * _DAY_MS,
        "LogAppendTime", "user agent", "activity agent",
        "In the transaction of the user-events batch behind it; read committed. After a recompute"
        " of users it repeats events: each counts once, by its offset.",
        partitioned_by="item_id",
    ),
    Topic(
        "model-versions", "constant", "model_version", 1, "delete", None, "LogAppendTime",
        "aif model", "the coordinator, without a group; aif model history",
        "Commands of operators, publishing included; the coordinator decides on each once, in log order.",
    ),
    Topic(
        "rollout", "constant", "rollout_event", 1, "delete", None, "LogAppendTime",
        "the coordinator: the worker that owns partition 0 of item-updates; another one that stands in for it",
        "every worker and server, without a group, from the start; aif model",
        "Decisions: one counts where its epoch is the next one, so all readers reach the same state.",
        dead_letters=False,
    ),
    Topic(
        "build-progress", "version/partition", "build_progress", 1, "compact", None, "LogAppendTime",
        "item agent, rebuild", "the coordinator, aif model status",
        "In the transaction of the rows that it counts; read committed.",
        dead_letters=False,
    ),
    Topic(
        "shadow-reports", "version/node", "shadow_report", 1, "compact", None, "LogAppendTime",
        "serving feeder", "the coordinator, aif model compare",
        "The newest sums of each node.",
        dead_letters=False,
    ),
)  # fmt: skip

TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        Table(
            "items", "item_id", "item_row", "item-updates", "item agent",
            "rebuild after a new model, serving (titles, coverage)",
            "The newest state of each item with its LSH signature; a deleted item stays as a marker.",
        ),
        *(
            Table(
                slot, "item_id", "n2o_row", "item-updates", "item agent, rebuild", "serving (N2O slab)",
                "The slot of one model version at a time, as topic rollout says: a fixed-size record per item with"
                " vector, bridge weights, signature and the version that made them.",
            )
            for slot in ("n2o_a", "n2o_b", "n2o_c")
        ),
        Table(
            "item_activity", "item_id", "item_activity_row", "item-activity", "activity agent",
            "item agent (item vectors)",
            "What users did to each item: sparse window tiles by event time, and the snapshot of their counts that item"
            " vectors are made with.",
            source_schema="activity_source",
        ),
        Table(
            "users", "user_id", "user_head", "user-events", "user agent", "serving (user phase)",
            "Sparse window tiles by event time, state of declared features, the newest 32 behaviours, the last 32 event"
            " ids; behind each user's row chunks of 256 older behaviours, 10,000 in all.",
            "user_chunk",
        ),
    )
}  # fmt: skip


#: Tables made from each source topic; the first one's watermark says where a lane stands.
LANES: Final[dict[str, tuple[str, ...]]] = {
    source: tuple(table.name for table in TABLES.values() if table.source == source)
    for source in dict.fromkeys(table.source for table in TABLES.values())
}


def _dead_letters(source: Topic) -> Topic:
    return Topic(
        dead_letter_topic(source.name), "topic-partition-offset", "dead_letter", 1, "compact,delete", 90 * _DAY_MS,
        "CreateTime", f"readers of {source.name}", "aif dead-letters",
        "The same bad record has the same key: a second reading replaces the first.",
    )  # fmt: skip


def _changelog(table: Table) -> Topic:
    return Topic(
        changelog_topic(table.name), table.key, table.schema, "deployment", "compact", None, "CreateTime",
        table.writers, f"recovery of {table.name}" + (", serving" if "serving" in table.readers else ""),
        "One transaction per source batch, a watermark row last; read committed.",
    )  # fmt: skip


TOPICS: Final[dict[str, Topic]] = {topic.name: topic for topic in _SOURCES}

#: Source topics whose readers refuse records to a dead-letter topic.
REFUSING: Final = tuple(topic.name for topic in _SOURCES if topic.dead_letters)


def all_topics() -> list[Topic]:
    """Every topic of a deployment: sources, their dead letters, changelogs."""
    return [*_SOURCES, *(_dead_letters(TOPICS[name]) for name in REFUSING), *map(_changelog, TABLES.values())]
