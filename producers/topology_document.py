"""topology.md, made from schemas/topics.py and the Avro schemas, so that the document cannot drift from the code.

`aif topics document > topology.md` writes it; a test holds the file equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from domain.n2o import N2OLayout
from domain.rollout import SLOTS
from producers.topics import topic_configs
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.records import ACTION_CODES
from schemas.topics import REFUSING, TABLES, Table, Topic, all_topics, changelog_topic, dead_letter_topic

__all__ = ["topology_document"]

_DAY_MS: Final = 86_400_000
_DEFAULTS: Final = Deployment()

_HEAD: Final = """\
# Topology

Every topic and table of a deployment. Made by `aif topics document` from `schemas/topics.py` and `schemas/avro/`;
change those, not this file.

```mermaid
flowchart LR
"""

_RULES: Final = """\
## Rules that hold everywhere

- A key is the entity's id as 8 bytes, big-endian int64; ids that a source writes as text are hashed (xxh3-64) where
  they enter, and the original is kept in the record.
- The partition is murmur2 of that key, for topics and tables alike, so that a table lives where its source is read.
  With librdkafka set `partitioner=murmur2_random`.
- A value is Avro in single-object encoding (`C3 01`, CRC-64-AVRO of the schema, body): no registry is needed.
- Event time is a field of the record. Source topics carry the broker's append time (LogAppendTime); an event later than
  that by more than AIF_FUTURE_TOLERANCE_MS is refused.
- Changelogs are written in transactions; read them with `isolation.level=read_committed`. The key `watermark` holds
  the partition's progress, see Watermark.
- A record that breaks its contract goes to the dead-letter topic of its source, with the reason and the original bytes.
"""


def topology_document() -> str:
    """The text of topology.md."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.rstrip("\n")
    yield from _diagram()
    yield "```\n"
    yield _RULES
    yield "## Topics\n"
    yield f"Partitions `P` are the deployment's (AIF_PARTITIONS, {_DEFAULTS.partitions} unless said otherwise).\n"
    yield "| topic | key | value | partitions | kept | timestamps | written by | read by |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    yield from map(_topic_row, all_topics())
    yield "\nWhat each promises:\n"
    yield from (f"- `{topic.name}`: {topic.promise}" for topic in all_topics())
    yield "\n## Tables\n"
    for table in TABLES.values():
        yield from _table_paragraph(table)
    yield "## Broker settings\n"
    yield "What `aif topics create` sets, beyond the broker's defaults"
    yield "(`min.insync.replicas=2` as well from three replicas on):\n"
    for topic in all_topics():
        settings = ", ".join(f"{key}={value}" for key, value in sorted(topic_configs(_DEFAULTS, topic).items()))
        yield f"- `{topic.name}`: {settings}"
    yield "\n## Records\n"
    for name in dict.fromkeys([*(topic.schema for topic in all_topics()), *_further_schemas(), "watermark"]):
        yield from _record(name)
    yield "## Action codes\n"
    yield "In packed rows an action is its number: " + ", ".join(
        f"{code} {name}" for name, code in ACTION_CODES.items()
    )


def _diagram() -> Iterator[str]:
    for table in TABLES.values():
        yield f"  {_node(table.source)}[[{table.source}]] --> {_table(table.name)}[({table.name})]"
        changelog = changelog_topic(table.name)
        readers = " --> serving" if "serving" in table.readers else ""
        yield f"  {_table(table.name)} --> {_node(changelog)}[[{changelog}]]{readers}"
    for source in REFUSING:
        yield f"  {_node(source)} -.bad records.-> {_node(dead_letter_topic(source))}[[{dead_letter_topic(source)}]]"
    yield "  model_versions[[model-versions]] --> coordinator{{coordinator}} --> rollout[[rollout]] --> serving"
    yield "  build_progress[[build-progress]] --> coordinator"
    yield "  serving --> shadow_reports[[shadow-reports]] --> coordinator"
    yield "  user_events --accepted--> item_activity"
    for slot in SLOTS:
        yield f"  rollout --> {_table(slot)} -.rebuild.-> build_progress"
        yield f"  table_items --rebuild--> {_table(slot)}"
        yield f"  table_item_activity --snapshots--> {_table(slot)}"


def _table(name: str) -> str:
    return f"table_{name}"


def _node(topic: str) -> str:
    return topic.replace("-", "_").replace(".", "_")


def _topic_row(topic: Topic) -> str:
    kept = "for ever" if topic.retention_ms is None else f"{topic.retention_ms // _DAY_MS} days"
    if "compact" in topic.cleanup:
        kept = "newest per key" + ("" if topic.retention_ms is None else f", {kept}")
    partitions = "1" if topic.partitions == 1 else "P"
    key = topic.key if not topic.partitioned_by else f"{topic.key}; partitioned by {topic.partitioned_by}"
    what = (f"`{topic.name}`", key, _title(topic.schema), partitions, kept, topic.timestamps)
    return f"| {' | '.join((*what, topic.writers, topic.readers))} |"


def _table_paragraph(table: Table) -> Iterator[str]:
    yield f"### {table.name}\n"
    yield f"{table.holds}\n"
    yield f"- Key {table.key}, value {_title(table.schema)}; made from `{table.source}` by {table.writers}."
    if table.schema == "n2o_row":
        layout = N2OLayout(64, 16, _DEFAULTS.signature_bits)
        yield f"- Record: {layout.stride} bytes at 64 vector values, 16 bridges and {layout.signature_bits} bits:"
        fields: Any = layout.dtype.fields
        places = (f"{name} at {place[1]} ({place[0].itemsize} bytes)" for name, place in fields.items())
        yield f"  {', '.join(places)}."
    if table.chunk_schema is not None:
        yield f"- Rows behind it: key {table.key} and a 4-byte big-endian number, value {_title(table.chunk_schema)}."
    if table.source_schema is not None:
        key = "`source`, the topic id (8 bytes) and the partition (4 bytes) of user-events"
        yield f"- Rows beside them: key {key}, value {_title(table.source_schema)}."
    yield f"- Read by {table.readers}."
    yield f"- Recovery: the owner of a partition replays `{changelog_topic(table.name)}` from where its store stopped."
    yield "- Order: one transaction per source batch, rows first, the watermark row last; a row notes the source offset"
    yield "  it contains, so that a repeated batch changes nothing.\n"


def _further_schemas() -> list[str]:
    """Of rows that are no entity's own."""
    return [
        schema
        for table in TABLES.values()
        for schema in (table.chunk_schema, table.source_schema)
        if schema is not None
    ]


def _record(name: str) -> Iterator[str]:
    schema: Any = codec(name).schema
    yield f"### {_title(name)}\n"
    yield f"{schema['doc']}\n"
    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    yield from (f"| {field['name']} | {_type(field['type'])} | {field.get('doc', '')} |" for field in schema["fields"])
    yield ""


def _title(schema: str) -> str:
    return str(codec(schema).schema["name"]).rsplit(".", 1)[-1]


def _type(declared: Any) -> str:
    if isinstance(declared, list):
        return " or ".join(_type(each) for each in declared if each != "null") + " or null"
    if isinstance(declared, dict):
        if declared["type"] == "enum":
            return "one of " + ", ".join(declared["symbols"])
        return f"map of {declared['values']}" if declared["type"] == "map" else str(declared["type"])
    return str(declared)
