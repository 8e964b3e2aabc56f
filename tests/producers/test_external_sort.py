from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.external_sort import sort_rows


@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=3))), st.integers(1, 7))
def test_equals_sorting_in_memory(drawn: list[tuple[int, str]], run_rows: int) -> None:
    """However small the runs, the result is what sorting everything at once gives, ties in line order."""
    rows = [(at_ms, line, (text,)) for line, (at_ms, text) in enumerate(drawn)]
    assert list(sort_rows(rows, run_rows=run_rows)) == sorted(rows)


@pytest.mark.parametrize("count", [0, 99, 100, 100_500])
def test_temporary_files_go_away(tmp_path: Path, count: int) -> None:
    """Runs lie on disk only while the iterator lives, also when it is left half read."""
    rows = [(-line, line, ("x",)) for line in range(count)]
    merged = sort_rows(rows, run_rows=100 if count <= 100 else 50_000, folder=tmp_path)
    for _ in zip(range(count // 2), merged, strict=False):
        pass
    assert bool(list(tmp_path.iterdir())) is (count >= 100)
    merged.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
