from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from producers.mapping import TableSpec
from producers.rejects import Rejects
from producers.tables import read_table
from schemas.errors import BadInput

_ROWS = [(2, ("1", "a")), (3, ("2", "ü")), (4, ("3", ""))]
_CSV = "id,other,name\n1,x,a\n2,x,ü\n3,x,\n"


def _read(path: Path, form: str, rejects: Rejects | None = None, columns: tuple[str, ...] | None = None):  # type: ignore[no-untyped-def]
    spec = TableSpec(path.name, form, columns, "\t" if form == "tsv" else ",", None)  # type: ignore[arg-type]
    return list(read_table(path, spec, ["id", "name"], rejects or Rejects(None, strict=False)))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_every_compression_reads_the_same(tmp_path: Path, suffix: str) -> None:
    """A csv file and its compressed forms give the same rows, reduced to the columns asked for."""
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}[suffix]
    path = tmp_path / f"log.csv{suffix}"
    path.write_bytes(pack(_CSV.encode()))
    assert _read(path, "csv") == _ROWS


def test_every_format_reads_the_same(tmp_path: Path) -> None:
    """tsv, JSON Lines and parquet give the text that csv gives; numbers and nulls become text."""
    (tmp_path / "log.tsv").write_text(_CSV.replace(",", "\t"))
    (tmp_path / "log.jsonl").write_text('{"id": 1, "name": "a"}\n{"name": "ü", "id": 2}\n\n{"id": 3, "name": null}\n')
    table = pyarrow.table({"id": [1, 2, 3], "name": ["a", "ü", None], "other": [1.5, 2.5, 3.5]})
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    plain = [row for _, row in _ROWS]
    assert [row for _, row in _read(tmp_path / "log.tsv", "tsv")] == plain
    assert _read(tmp_path / "log.jsonl", "jsonl") == [(1, plain[0]), (2, plain[1]), (4, plain[2])]
    assert _read(tmp_path / "log.parquet", "parquet") == list(enumerate(plain, 1))


def test_files_without_a_header(tmp_path: Path) -> None:
    """Columns named by the mapping leave the first line to the data."""
    (tmp_path / "log.csv").write_text("1,x,a\n")
    assert _read(tmp_path / "log.csv", "csv", columns=("id", "other", "name")) == [(1, ("1", "a"))]


def test_malformed_rows_are_rejected_and_the_rest_is_read(tmp_path: Path) -> None:
    """Rows of another width, oversized fields and broken JSON are counted by reason; reading goes on."""
    rejects = Rejects(tmp_path / "rejects.jsonl", strict=False)
    (tmp_path / "log.csv").write_text(f"id,name\n1,a\n2\n3,b,c\n\n{'x' * 140_000},y\n4,d\n")
    assert [row for _, row in _read(tmp_path / "log.csv", "csv", rejects)] == [("1", "a"), ("4", "d")]
    (tmp_path / "log.jsonl").write_text('{"id": 1\n[1]\n{"id": 5, "name": "e"}\n')
    assert _read(tmp_path / "log.jsonl", "jsonl", rejects) == [(3, ("5", "e"))]
    assert rejects.by_reason == {"wrong_width": 2, "not_csv": 1, "not_json": 2}


@pytest.mark.parametrize("name", ["cut.csv.gz", "cut.csv.xz", "cut.csv.zst", "noise.csv.gz", "cut.parquet"])
def test_damaged_files_are_bad_input(tmp_path: Path, name: str) -> None:
    """A truncated or foreign file ends with one sentence that names it, not with a traceback."""
    text = ("id,name\n" + "\n".join(f"{n * 7919 % 100_003},x" for n in range(20_000))).encode()
    pack = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress, "parquet": bytes}[name.split(".")[-1]]
    path = tmp_path / name
    path.write_bytes(b"no gzip at all" if name.startswith("noise") else pack(text)[:-2000])
    with pytest.raises(BadInput, match=name):
        _read(path, "parquet" if name.endswith("parquet") else "csv")


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    """A column that the file lacks is named beside those it has; so is a missing file."""
    (tmp_path / "log.csv").write_text("id,title\n")
    with pytest.raises(BadInput, match=r"no column 'name'; it has id, title"):
        _read(tmp_path / "log.csv", "csv")
    with pytest.raises(BadInput, match=r"gone\.csv does not exist"):
        _read(tmp_path / "gone.csv", "csv")
