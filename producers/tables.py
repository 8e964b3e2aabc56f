"""Files of rows, whatever their format and compression, as tuples of text with line numbers.

Only the columns that a mapping reads are kept, so that what is sorted or held is small. A missing or null value is the
empty text. Formats: csv, tsv, jsonl, each also as .gz, .xz or .zst; parquet (needs pyarrow).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

import zstandard

from producers.mapping import TableSpec
from producers.rejects import Rejects
from schemas.errors import BadInput, BadRecord

__all__ = ["NumberedRow", "read_table"]

#: Line (or record) number, counted from 1 with the header, and the text of the columns asked for.
NumberedRow = tuple[int, tuple[str, ...]]

_READ_BYTES: Final = 65_536
_DAMAGE: Final = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


def read_table(path: Path, spec: TableSpec, columns: Sequence[str], rejects: Rejects) -> Iterator[NumberedRow]:
    """Rows of a file in the file's order, reduced to `columns`.

    Rows of another width go to `rejects`. Raises BadInput where the file is missing, damaged or lacks a column.
    """
    readers = {"csv": _delimited, "tsv": _delimited, "jsonl": _json_lines, "parquet": _parquet}
    if not path.is_file():
        raise BadInput(f"data file {path} does not exist: give its folder with --path")
    line = 0
    try:
        for row in readers[spec.format](path, spec, columns, rejects):
            line = row[0]
            yield row
    except _DAMAGE as error:
        raise BadInput(f"data file {path} cannot be read after line {line}: {error}") from error


def _open_text(path: Path) -> IO[str]:
    """The file's text. Bytes that are no UTF-8 become surrogates, which only spoil the rows that use them."""
    opener: Any = {".gz": gzip.open, ".xz": lzma.open, ".zst": _open_zstandard}.get(path.suffix, open)
    raw = cast("IO[bytes]", opener(path, "rb"))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="")


class _Zstandard(io.RawIOBase):
    """A .zst file's bytes. The library's own reader takes a truncated file for a complete one; this one does not."""

    def __init__(self, path: Path, mode: Literal["rb"]) -> None:
        self._file = path.open(mode)
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._started = False
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            packed = self._frame.unused_data or self._file.read(_READ_BYTES)
            if not packed:
                if self._started and not self._frame.eof:
                    raise EOFError("compressed file ended before the end of its last frame")
                return 0
            if self._frame.eof:
                # Frames may follow one another, as gzip members do.
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._started = True
            self._left = memoryview(self._frame.decompress(packed))
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_zstandard(path: Path, mode: Literal["rb"]) -> io.BufferedReader:
    return io.BufferedReader(_Zstandard(path, mode))


def _delimited(path: Path, spec: TableSpec, columns: Sequence[str], rejects: Rejects) -> Iterator[NumberedRow]:
    with _open_text(path) as text:
        quoting: Literal[0, 3] = csv.QUOTE_NONE if spec.format == "tsv" else csv.QUOTE_MINIMAL
        rows = csv.reader(text, delimiter=spec.delimiter, quoting=quoting)
        header = spec.columns or tuple(name.lstrip("\ufeff") for name in next(rows, []))
        pick, width = _picker(path, header, columns), len(header)
        while True:
            try:
                for row in rows:
                    if len(row) == width:
                        yield rows.line_num, pick(row)
                    elif row:
                        problem = BadRecord("wrong_width", f"expected {width} fields, found {len(row)}")
                        rejects.add(path.name, rows.line_num, problem, row)
                return
            except csv.Error as error:
                # The reader stays usable: it goes on with the next line.
                rejects.add(path.name, rows.line_num, BadRecord("not_csv", str(error)), "")


def _picker(path: Path, header: Sequence[str], columns: Sequence[str]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    for column in columns:
        if column not in header:
            raise BadInput(f"data file {path} has no column {column!r}; it has {', '.join(header) or 'no header'}")
    places = [header.index(column) for column in columns]
    if len(places) == 1:
        only = places[0]
        return lambda row: (row[only],)
    return cast("Callable[[Sequence[str]], tuple[str, ...]]", itemgetter(*places))


def _json_lines(path: Path, spec: TableSpec, columns: Sequence[str], rejects: Rejects) -> Iterator[NumberedRow]:
    with _open_text(path) as text:
        for line, raw in enumerate(text, 1):
            if not raw.strip():
                continue
            try:
                values = json.loads(raw)
            except ValueError as error:
                rejects.add(path.name, line, BadRecord("not_json", str(error)), raw.rstrip("\n"))
                continue
            if isinstance(values, dict):
                yield line, tuple(_as_text(values.get(column)) for column in columns)
            else:
                rejects.add(path.name, line, BadRecord("not_json", "expected an object"), raw.rstrip("\n"))


def _parquet(path: Path, spec: TableSpec, columns: Sequence[str], rejects: Rejects) -> Iterator[NumberedRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput(f"{path.name} is parquet: install aif-nearline[parquet]") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _picker(path, file.schema_arrow.names, columns)
            line = 0
            for batch in file.iter_batches(batch_size=8192, columns=list(columns)):
                by_column = [[_as_text(value) for value in batch.column(name).to_pylist()] for name in columns]
                for line, row in enumerate(zip(*by_column, strict=True), line + 1):  # noqa: B020 (goes on counting)
                    yield line, row
    except pyarrow.ArrowException as error:
        raise BadInput(f"data file {path} is not readable parquet: {error}") from error


def _as_text(value: Any) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "1" if value else "0"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
