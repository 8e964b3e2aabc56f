"""Data sets: a mapping and its files as one stream of contract records in event-time order.

`open_dataset(...).entries()` is what `aif replay` sends and what training reads; it is the same sequence every time, so
that a position in it is a place to resume from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from producers.event_mapper import event_mapper
from producers.event_time import time_reader, time_text
from producers.external_sort import TimedRow, sort_rows
from producers.item_source import FileItems, ItemSource, RowItems
from producers.mapping import Mapping, TableSpec
from producers.mapping_file import load_mapping
from producers.rejects import Rejects
from producers.row_readers import Columns, Row, condition_reader, id_reader
from producers.tables import NumberedRow, read_table
from schemas.errors import BadInput, BadRecord
from schemas.records import ItemUpdate, UserEvent

__all__ = ["Counts", "Dataset", "Entry", "open_dataset"]

#: One record of the stream with the topic's side that it belongs to.
Entry: TypeAlias = tuple[Literal["item"], ItemUpdate] | tuple[Literal["user"], UserEvent]

_BUNDLED = Path(__file__).parent / "samples"


@dataclass
class Counts:
    """What a pass over the data has done so far."""

    rows: int = 0  #: rows read that have the right shape
    dropped: int = 0  #: rows that the mapping's `source.drop` leaves out
    items: int = 0
    events: int = 0
    rejected: int = 0
    newest_ms: int | None = None  #: event time reached


@dataclass
class Dataset:
    """A data set with a selection; make it with `open_dataset`. One pass at a time."""

    mapping: Mapping
    folder: Path
    events_file: Path
    limit: int | None
    from_ms: int | None
    to_ms: int | None
    strict: bool
    rejects_path: Path | None
    embedding_dim: int
    counts: Counts = field(default_factory=Counts)

    @property
    def estimated_rows(self) -> int | None:
        """About how many rows a whole pass reads; None where the mapping does not say."""
        return self.mapping.table.rows

    def entries(self) -> Iterator[Entry]:
        """Item updates and user events by event time, an item's update before the event that revealed it.

        Starts `counts` anew. Bad rows go to the rejects; raises BadInput where a file is missing, damaged, out of the
        order that the mapping declares, or, when strict, at the first bad row.
        """
        self.counts = Counts()
        rejects = Rejects(self.rejects_path, strict=self.strict)
        try:
            yield from self._map(rejects)
        finally:
            self.counts.rejected = rejects.count
            rejects.close()

    def _map(self, rejects: Rejects) -> Iterator[Entry]:
        columns, counts = Columns(), self.counts
        to_events = event_mapper(self.mapping, columns)
        items = self._items(columns, rejects)
        categories: dict[int, int | None] | None = {} if self.mapping.events.category == "items" else None
        limit = self.limit if self.limit is not None else -1
        file = self.events_file.name
        for at_ms, line, row in self._ordered(columns, rejects):
            try:
                # Events first: a row that they refuse must not use up its item's first sight.
                events = to_events(line, at_ms, row)
                updates = items.before(line, at_ms, row)
            except BadRecord as problem:
                rejects.add(file, line, problem, row)
                counts.rejected = rejects.count
                continue
            counts.newest_ms = at_ms
            for update in updates:
                counts.items += 1
                if categories is not None:
                    categories[update["item_id"]] = update["category_id"]
                yield "item", update
            for event in events:
                if counts.events == limit:
                    return
                counts.events += 1
                if categories is not None:
                    event["category_id"] = categories.get(event["item_id"])
                yield "user", event
            if counts.events == limit:
                return
        for update in items.rest(self.to_ms, counts.newest_ms or 0):
            counts.items += 1
            yield "item", update

    def _items(self, columns: Columns, rejects: Rejects) -> ItemSource:
        spec, name, dim = self.mapping.items, self.mapping.name, self.embedding_dim
        table = spec.table
        if table is None:
            return RowItems(name, spec, dim, columns)
        path = self.folder / table.file

        def read(wanted: Columns) -> Iterator[NumberedRow]:
            return read_table(path, table, wanted.names, rejects)

        def on_bad(line: int, problem: BadRecord, row: Row) -> None:
            rejects.add(path.name, line, problem, row)

        return FileItems(name, spec, dim, columns, id_reader(self.mapping.events.item, columns), read, on_bad)

    def _ordered(self, columns: Columns, rejects: Rejects) -> Iterator[TimedRow]:
        timed = self._timed(columns, rejects)
        return self._verified(timed) if self.mapping.sorted else sort_rows(timed)

    def _timed(self, columns: Columns, rejects: Rejects) -> Iterator[TimedRow]:
        """Rows of the selection with their times, dropped ones left out, in the file's order."""
        mapping, counts = self.mapping, self.counts
        drops = [condition_reader(each, columns) for each in mapping.drop]
        time_at, time_of = columns.place(mapping.time.column), time_reader(mapping.time)
        from_ms = self.from_ms if self.from_ms is not None else -1
        to_ms = self.to_ms if self.to_ms is not None else 2**63
        for line, row in read_table(self.events_file, mapping.table, columns.names, rejects):
            counts.rows += 1
            try:
                # A list: twice as fast as a generator for the usual one to three conditions.
                if any([drop(row) for drop in drops]):
                    counts.dropped += 1
                    continue
                at_ms = time_of(row[time_at])
            except BadRecord as problem:
                rejects.add(self.events_file.name, line, problem, row)
                counts.rejected = rejects.count
                continue
            if from_ms <= at_ms < to_ms:
                yield at_ms, line, row
            elif at_ms >= to_ms and mapping.sorted:
                return

    def _verified(self, rows: Iterator[TimedRow]) -> Iterator[TimedRow]:
        newest_ms = -1
        for timed in rows:
            if timed[0] < newest_ms:
                raise BadInput(
                    f"{self.events_file} line {timed[1]}: {time_text(timed[0])} comes after {time_text(newest_ms)}, "
                    f'but mapping {self.mapping.name} says "sorted": true; set it to false to have the file sorted'
                )
            newest_ms = timed[0]
            yield timed


def open_dataset(
    name_or_mapping_path: str | Path,
    path: Path | None = None,
    *,
    limit: int | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    strict: bool = False,
    rejects: Path | None = None,
    embedding_dim: int = 64,
) -> Dataset:
    """A data set by the name of a shipped mapping, or by the path of a mapping file.

    `path` is the folder of its files, or the file of events itself. Without it: the package's samples, the mapping
    file's own folder, or ../shared/data/<name> beside the working folder or the project. `limit` counts user events;
    `from_ms <= event time < to_ms`. Raises BadInput.
    """
    mapping = load_mapping(name_or_mapping_path)
    if limit is not None and limit < 1:
        raise BadInput(f"limit must be at least 1, not {limit}")
    if path is not None and path.is_file():
        folder, events_file = path.parent, path
    else:
        folder = path or _default_folder(mapping, str(name_or_mapping_path))
        events_file = folder / mapping.table.file
    for wanted in [events_file, *_item_files(folder, mapping.items.table)]:
        if not wanted.is_file():
            raise BadInput(
                f"data set {mapping.name}: {wanted} does not exist; give the folder of its files with --path"
            )
    return Dataset(mapping, folder, events_file, limit, from_ms, to_ms, strict, rejects, embedding_dim)


def _item_files(folder: Path, table: TableSpec | None) -> list[Path]:
    return [folder / table.file] if table else []


def _default_folder(mapping: Mapping, name: str) -> Path:
    if mapping.bundled:
        return _BUNDLED
    if name.endswith(".json"):
        return Path(name).parent
    shared = Path("shared") / "data" / mapping.name
    candidates: Sequence[Path] = (Path("..") / shared, Path(__file__).parent.parent.parent / shared)
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])
