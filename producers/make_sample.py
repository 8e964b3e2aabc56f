"""Makes the bundled sample of online-retail-2: `python -m producers.make_sample transactions.csv.xz`.

A contiguous stretch (the last nine months: 2011-03-01 to 2011-12-09), and of it every line of one customer in four,
chosen by a hash of the number. So each kept customer's history in that time is whole, items are seen by many customers,
and prices and titles change as they did. Lines without a customer and the doubled ones (dup = 1) are left out, and so
are the columns sheet and dup. The same input gives the same lines.
"""

from __future__ import annotations

import csv
import io
import lzma
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from schemas.errors import BadInput
from schemas.ids import hashed_id

__all__ = ["COLUMNS", "main", "sample_lines"]

COLUMNS: Final = ("invoice", "stock_code", "description", "quantity", "invoice_date", "price", "customer_id", "country")
_FROM: Final = "2011-03-01"
_UNTIL: Final = "2011-12-10"
#: One customer in four: about 70,000 lines, half a megabyte.
_ONE_IN: Final = 4


def sample_lines(rows: Iterable[dict[str, str]]) -> Iterator[list[str]]:
    """The kept lines of the full log, reduced to COLUMNS, in its order."""
    for row in rows:
        in_time = _FROM <= row["invoice_date"] < _UNTIL
        if not in_time or row["dup"] == "1" or not row["customer_id"]:
            continue
        if hashed_id(f"sample:{row['customer_id']}") % _ONE_IN == 0:
            yield [row[column] for column in COLUMNS]


def main(source: Path, target: Path) -> int:
    """Write the sample and return its lines. Raises BadInput where the source is missing."""
    if not source.is_file():
        raise BadInput(f"{source} does not exist: give transactions.csv.xz of online-retail-2")
    text = io.StringIO(newline="")
    out = csv.writer(text, lineterminator="\n")
    out.writerow(COLUMNS)
    count = 0
    with lzma.open(source, "rt", encoding="utf-8", newline="") as rows:
        for line in sample_lines(csv.DictReader(rows)):
            out.writerow(line)
            count += 1
    target.write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))
    return count


if __name__ == "__main__":
    path = Path(__file__).parent / "samples" / "online-retail-sample.csv.xz"
    print(f"{main(Path(sys.argv[1]), path)} lines, {path.stat().st_size} bytes in {path}")
