from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from producers.make_sample import COLUMNS, main
from schemas.errors import BadInput

_SAMPLES = Path(__file__).parents[2] / "producers" / "samples"


def test_whole_customers_within_the_time(tmp_path: Path) -> None:
    """Of the kept customers every line in the time is kept unaltered; doubled lines and those without one are not."""
    header = "sheet,invoice,stock_code,description,quantity,invoice_date,price,customer_id,country,dup"
    lines = [
        f'b,{n},85048,"MUG, RED",{n},2011-0{2 + n % 3}-02 08:00:00,2.1,{customer},France,{dup}'
        for n, (customer, dup) in enumerate((c, d) for c in [*range(100), ""] for d in (0, 0, 0, 1))
    ]
    source, target = tmp_path / "all.csv.xz", tmp_path / "sample.csv.xz"
    source.write_bytes(lzma.compress("\n".join([header, *lines, ""]).encode()))
    count = main(source, target)
    kept = lzma.decompress(target.read_bytes()).decode().splitlines()
    wanted = [line for line in lines if "2011-02" not in line and line.endswith(",0") and ",,France" not in line]
    users = {line.split(",")[-2] for line in kept[1:]}
    assert kept[0] == ",".join(COLUMNS) and count == len(kept) - 1
    assert kept[1:] == [line[2:-2] for line in wanted if line.split(",")[-3] in users]
    assert 10 < len(users) < 45


def test_the_shipped_sample_is_small_and_attributed() -> None:
    """The sample is below a megabyte, and its licence and origin stand beside it."""
    assert (_SAMPLES / "online-retail-sample.csv.xz").stat().st_size < 1_000_000
    text = (_SAMPLES / "ATTRIBUTION.md").read_text()
    assert "CC BY 4.0" in text and "Chen" in text and "Changes made" in text


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    """Without the full log the script says which file it wants."""
    with pytest.raises(BadInput, match=r"transactions\.csv\.xz"):
        main(tmp_path / "gone", tmp_path / "out")
