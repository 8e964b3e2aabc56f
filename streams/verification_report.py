"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["Coverage", "Report"]

_SHOWN: Final = 10


@dataclass
class Coverage:
    """How many items of the compared partitions, deleted ones left out, have a vector of a slot's version.

    Of `items`, `current` have a row of it, `other_models` one that another version has left there, `missing` none.
    """

    version: str
    phase: str  #: of the roll-out, when the slot was compared
    items: int = 0
    current: int = 0
    other_models: int = 0
    missing: int = 0
    awaiting_activity: int = 0

    def count(self, tag: int | None, expected: int) -> None:
        """Take an item whose row is of the version with this tag; None where it has no row."""
        self.items += 1
        if tag is None:
            self.missing += 1
        elif tag == expected:
            self.current += 1
        else:
            self.other_models += 1


@dataclass
class Report:
    """Counts and the first differences. `equal` is the verdict."""

    rows: dict[str, int] = field(default_factory=dict)
    source_records: int = 0
    refused_records: int = 0
    #: Of the refused ones: have a dead letter, and would be accepted by the settings and schemas of this process.
    refused_then_acceptable_now: int = 0
    missing_dead_letters: int = 0
    #: Have no dead letter and were applied, but would be refused by the settings of this process.
    accepted_then_refused_now: int = 0
    differences: int = 0
    first_differences: list[str] = field(default_factory=list)
    #: Source topic-partitions whose log no longer starts at 0, and the offset from which they were recomputed.
    horizon: dict[str, int] = field(default_factory=dict)
    #: By slot table, of those that hold a version.
    coverage: dict[str, Coverage] = field(default_factory=dict)
    #: Rows of each local store that were compared with its changelog, by worker/store; None where none was looked at.
    stores: dict[str, int] | None = None

    def differs(self, where: str, what: str) -> None:
        """Count a difference and keep the first ones."""
        self.differences += 1
        if len(self.first_differences) < _SHOWN:
            self.first_differences.append(f"{where}: {what}")

    def add(self, other: Report) -> None:
        """Take another part's findings in."""
        for table, count in other.rows.items():
            self.rows[table] = self.rows.get(table, 0) + count
        for name in (
            "source_records", "refused_records", "refused_then_acceptable_now", "accepted_then_refused_now",
            "missing_dead_letters", "differences",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_differences = (self.first_differences + other.first_differences)[:_SHOWN]
        self.horizon |= other.horizon
        if other.stores is not None:
            self.stores = (self.stores or {}) | other.stores
        for table, found in other.coverage.items():
            total = self.coverage.setdefault(table, Coverage(found.version, found.phase))
            for name in ("items", "current", "other_models", "missing", "awaiting_activity"):
                setattr(total, name, getattr(total, name) + getattr(found, name))

    @property
    def equal(self) -> bool:
        """Whether nothing differs. Coverage is no part of it: a rebuild that goes on is no difference."""
        return self.differences == 0 and self.missing_dead_letters == 0
