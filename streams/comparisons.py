"""How the tables of each lane are compared with what the log says, at one cut: the part of `aif verify` that knows
what rows mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from domain.rollout import Version
from schemas.deployment import Deployment
from schemas.ids import CHUNK_KEY_BYTES, ENTITY_KEY_BYTES, chunk_of, source_key
from streams.activity_history import ActivityHistory
from streams.activity_oracle import ActivityOracle
from streams.changelog_rows import RowsAtCut
from streams.findings import Findings
from streams.oracle import ItemsOracle
from streams.reference_rows import N2OOracle
from streams.rollout_log import RolloutLog
from streams.user_oracle import UsersOracle
from streams.verification_report import Coverage

__all__ = ["ActivityComparison", "Comparison", "ItemsComparison", "UsersComparison"]


class Comparison(Protocol):
    """One lane's."""

    def oracle(self, topic_id: int) -> Any:
        """A new oracle of the lane's first table."""

    async def compare(self, oracle: Any, tables: Mapping[str, RowsAtCut], findings: Findings) -> None:
        """Compare tables, at the offset up to which the oracle has taken the log."""


class ItemsComparison:
    """Table items by its oracle; vectors by their model, the item's row and the snapshot that each record names."""

    def __init__(self, deployment: Deployment, partition: int, rollout: RolloutLog, history: ActivityHistory) -> None:
        self._deployment, self._partition, self._history, self._rollout = deployment, partition, history, rollout
        self._fed = rollout.seen.fed
        self._vectors = N2OOracle(deployment)

    def oracle(self, topic_id: int) -> ItemsOracle:
        """See Comparison."""
        return ItemsOracle(self._deployment, topic_id)

    async def compare(self, oracle: ItemsOracle, tables: Mapping[str, RowsAtCut], findings: Findings) -> None:
        """See Comparison."""
        first, *slots = tables
        rows = findings.decoded(first, "item_row", tables[first].rows)
        for item in oracle.newest.keys() | rows.keys():
            if what := oracle.difference(item, rows.get(item)):
                findings.differs(first, item, what)
        fed = (await self._rollout.state()).fed
        for name in slots:
            decoded = findings.decoded(name, "n2o_row", tables[name].rows)
            records: dict[int, bytes] = {entity: row["record"] for entity, row in decoded.items()}
            for entity in records.keys() - rows.keys():
                findings.differs(name, entity, "no such item")
            before, after = self._fed.get(name), fed.get(name)
            # One that came or went meanwhile may have rows that nobody kept up to date when the tables were read.
            if before and after and (before.name, before.build_epoch) == (after.name, after.build_epoch):
                await self._compare_vectors(name, after, rows, records, findings)

    async def _compare_vectors(
        self, table: str, version: Version, items: dict[int, Any], records: dict[int, bytes], findings: Findings
    ) -> None:
        """Every vector of the slot's version must be right; how many there are is coverage: a rebuild may be on its
        way, and what another version has left there is overwritten or deleted by and by.
        """
        coverage = findings.report.coverage[table] = Coverage(version.name, version.phase)
        # The records were read before: whatever snapshot one names is in the log by now.
        named = {entity: N2OOracle.snapshot_ms(record) for entity, record in records.items()}
        activity = await self._history.until_now(self._partition, named)
        for entity, row in items.items():
            record = records.get(entity)
            if record is not None and N2OOracle.version_tag(record) == version.tag:
                self._compare_vector(version, table, entity, row, record, activity, findings)
                coverage.awaiting_activity += named[entity] != activity.newest_ms(entity)
            if not row["deleted"]:
                coverage.count(None if record is None else N2OOracle.version_tag(record), version.tag)

    def _compare_vector(
        self, version: Version, table: str, entity: int, row: Any, record: bytes, activity: ActivityOracle,
        findings: Findings,
    ) -> None:  # fmt: skip
        made_ms = N2OOracle.snapshot_ms(record)
        features = activity.snapshot(entity, made_ms)
        if features is None:
            if not activity.forgotten(entity, made_ms):
                findings.differs(table, entity, f"its activity's snapshot of {made_ms} ms never was")
            return
        if what := self._vectors.difference(version, row, record, made_ms, features):
            findings.differs(table, entity, what)


class UsersComparison:
    """Heads of table users with the chunks behind them; these are not counted apart."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def oracle(self, topic_id: int) -> UsersOracle:
        """See Comparison."""
        return UsersOracle(self._deployment, topic_id)

    async def compare(self, oracle: UsersOracle, tables: Mapping[str, RowsAtCut], findings: Findings) -> None:
        """See Comparison."""
        [table] = tables
        rows = tables[table].rows
        behind = {key: value for key, value in rows.items() if len(key) == CHUNK_KEY_BYTES}
        heads = findings.decoded(table, "user_head", {key: rows[key] for key in rows if key not in behind})
        chunks: dict[int, dict[int, bytes]] = {}
        for (user, number), chunk in findings.decoded(table, "user_chunk", behind, chunk_of).items():
            chunks.setdefault(user, {})[number] = chunk["behaviours"]
        findings.report.rows[table] -= len(behind)
        for user, what in oracle.differences(heads, chunks):
            findings.differs(table, user, what)


class ActivityComparison:
    """Rows of table item_activity and of the sources behind it; these are not counted."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def oracle(self, topic_id: int) -> ActivityOracle:
        """See Comparison."""
        return ActivityOracle(self._deployment, topic_id)

    async def compare(self, oracle: ActivityOracle, tables: Mapping[str, RowsAtCut], findings: Findings) -> None:
        """See Comparison."""
        [table] = tables
        raw = tables[table].rows
        sources = {key: value for key, value in raw.items() if len(key) != ENTITY_KEY_BYTES}
        findings.report.rows[table] -= len(sources)
        found = findings.decoded(table, "activity_source", sources, bytes)
        expected = {source_key(*source): at for source, at in oracle.next_offset.items()}
        for key in expected.keys() | found.keys():
            offset = found[key]["next_offset"] if key in found else None
            if offset != expected.get(key):
                findings.differs_at(table, key, key.hex(), f"is at offset {offset}, expected {expected.get(key)}")
        rows = findings.decoded(table, "item_activity_row", {key: raw[key] for key in raw if key not in sources})
        for item in oracle.items.keys() | rows.keys():
            if what := oracle.difference(item, rows.get(item)):
                findings.differs(table, item, what)
