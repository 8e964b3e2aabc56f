"""Filling an empty state from the workers' tables of this host, where there are any (local_tables.py)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from domain.artifact import MANIFEST, sha256
from schemas.codec import codec
from schemas.errors import Unavailable
from serving.feeding.local_tables import FoundTable, LocalTable
from serving.feeding.store_writer import StoreWriter
from serving.rollout.announcements import live_at_once
from serving.tables.store import TablePartition

__all__ = ["Changelog", "adopt_artifacts", "load_tables"]

_log = logging.getLogger(__name__)


class Changelog(NamedTuple):
    """A table partition's changelog, as the broker has it."""

    topic_id: int
    end: int


def load_tables(
    writer: StoreWriter,
    found: Mapping[TablePartition, FoundTable],
    changelogs: Mapping[TablePartition, Changelog] | None,
) -> int:
    """Read tables of this host into an empty state; how many rows.

    With `changelogs`, asked for after the tables were found, a table that reaches beyond its changelog's end, or
    says that it is a copy of another, is left out. The state's offsets are then where the changelogs go on.
    """
    started_s, rows = time.monotonic(), 0
    for at, table in found.items():
        if changelogs is not None and (why := _foreign(table, changelogs[at])):
            _log.warning("%s %s: not of this broker, left out", table.path, why)
            continue
        rows += _load(writer, at, table.path)
    if found:
        _log.info("read %d rows of %d tables of this host in %.1f s", rows, len(found), time.monotonic() - started_s)
    return rows


def _foreign(table: FoundTable, changelog: Changelog) -> str | None:
    """Why a table is no copy of a changelog; None where it may be."""
    if table.changelog_id not in (None, changelog.topic_id):
        return "is a copy of another changelog"
    if table.changelog_offset >= changelog.end:
        return f"is at changelog offset {table.changelog_offset}, beyond the changelog's end ({changelog.end})"
    return None


def adopt_artifacts(writer: StoreWriter, artifacts: Path) -> None:
    """Without the log of decisions: take the best covered version whose artifact is here for the live one."""
    encode, store = codec("rollout_event").encode, writer.store
    for key in sorted(writer.slabs, key=store.coverage, reverse=True):
        folder = artifacts / f"{key.tag:016x}"
        if (folder / MANIFEST).is_file():
            digest = sha256((folder / MANIFEST).read_bytes())
            events = live_at_once(key, str(folder), digest, 0, "found beside the local tables")
            writer.decide([(offset, encode(event)) for offset, event in enumerate(events)])
            return


def _load(writer: StoreWriter, at: TablePartition, path: Path) -> int:
    rows = 0
    try:
        with closing(LocalTable(path)) as table:
            for keys, values in table.chunks():
                writer.apply(at, keys, values)
                rows += len(keys)
            offset = table.changelog_offset
        writer.apply(at, [], [], 0 if offset is None else offset + 1)
    except Unavailable as error:  # a part of its rows may be in; the changelog, from its start, has them all
        _log.warning("%s", error)
        return 0
    return rows
