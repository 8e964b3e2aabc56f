from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.n2o import Flag, N2OLayout
from serving.ranking import neighbours
from serving.ranking.neighbours import Approximate, Exact, ItemIndex

LAYOUT = N2OLayout(16, 2, 64)


def records(ids, seed: int = 0) -> np.ndarray:
    """Records of items; equal ids and seeds have equal vectors, another seed is another update of the item."""
    rows = LAYOUT.empty(len(ids))
    rows["item_id"], rows["source_offset"], rows["snapshot_ms"] = ids, seed, -1
    vectors = [np.random.default_rng((seed, int(each) & 0xFFFFFFFF)).normal(size=16) for each in ids]
    LAYOUT.set_vectors(rows, np.array(vectors, dtype="f4").reshape(-1, 16), np.ones((len(ids), 2), dtype="f4"))
    return rows


def reading(*chunks: np.ndarray) -> Callable:
    """What a version's rows are read by."""
    return lambda: iter(chunks)


def plain_order(rows: np.ndarray, queries: np.ndarray) -> dict[int, float]:
    """Cosine of each servable item to its nearest query, item by item."""
    found = {}
    for row in rows:
        if not row["flags"] & Flag.DELETED:
            vector = LAYOUT.vectors(row[None])[0].astype("f8")
            cosines = [query @ vector / np.linalg.norm(query) / np.linalg.norm(vector) for query in queries]
            found[int(row["item_id"])] = max(cosines)
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_an_exact_index_is_the_plain_order_after_any_changes(data) -> None:
    """Whatever rows changed, came, went or were deleted since the base was built: a search finds the nearest of now."""
    universe = list(range(-30, 30))
    index = ItemIndex(LAYOUT, Exact)
    for _ in range(data.draw(st.integers(1, 4))):
        ids = data.draw(st.lists(st.sampled_from(universe), unique=True, max_size=40))
        rows = records(ids, data.draw(st.integers(0, 2)))
        rows["flags"][: data.draw(st.integers(0, 3))] = Flag.DELETED
        cut = data.draw(st.integers(0, len(ids)))
        index.refresh(reading(rows[:cut], rows[cut:]))
    queries = np.random.default_rng(1).normal(size=(3, 16)).astype("f4")
    plain = plain_order(rows, queries)
    found = index.search(queries, 10).tolist()
    assert len(index) == len(plain)
    assert len(found) == min(10, len(plain)) == len(set(found))
    best = sorted(plain.values(), reverse=True)[:10]
    assert [plain[item] for item in found] == pytest.approx(best, abs=1e-5)


def test_approximate_search_finds_most_of_what_exact_search_finds() -> None:
    """The graph's recall at 50 is above 0.9 on 3,000 random vectors, and ids may be negative."""
    rows = records(np.arange(-1500, 1500))
    exact, approximate = ItemIndex(LAYOUT, Exact), ItemIndex(LAYOUT, lambda: Approximate(16))
    for index in (exact, approximate):
        index.refresh(reading(rows[:1000], rows[1000:]))
    rng, recalls = np.random.default_rng(2), []
    for queries in (1, 1, 5, 5):
        asked = rng.normal(size=(queries, 16)).astype("f4")
        truth = set(exact.search(asked, 50).tolist())
        recalls.append(len(truth & set(approximate.search(asked, 50).tolist())) / 50)
    assert np.mean(recalls) > 0.9


def test_a_deleted_item_is_never_found_again() -> None:
    """An approximate base still holds a deleted item's vector; the index does not answer with it."""
    rows = records(np.arange(200))
    index = ItemIndex(LAYOUT, lambda: Approximate(16))
    index.refresh(reading(rows))
    query = LAYOUT.vectors(rows[7:8])
    assert index.search(query, 5)[0] == 7
    rows["flags"][7] = Flag.DELETED
    assert index.refresh(reading(rows)) == 1
    assert 7 not in index.search(query, 200)
    assert len(index) == 199


def test_a_large_delta_is_built_into_the_next_base(monkeypatch) -> None:
    """Few changes are kept beside the base; beyond the share a new base is built, and answers are the same."""
    monkeypatch.setattr(neighbours, "_REBUILT_ROWS", 10)
    index = ItemIndex(LAYOUT, Exact)
    index.refresh(reading(records(np.arange(100))))
    index.refresh(reading(records(np.arange(105))))
    assert index.builds == 1
    index.refresh(reading(records(np.arange(120))))
    assert (index.builds, len(index)) == (2, 120)
    assert index.refresh(reading(records(np.arange(120)))) == 0


def test_before_its_first_refresh_an_index_finds_nothing() -> None:
    """An index that was never built says so and answers with no item; so does one without rows."""
    index = ItemIndex(LAYOUT, Exact)
    query = np.ones((1, 16), dtype="f4")
    assert not index.ready
    assert not len(index.search(query, 5))
    index.refresh(reading())
    assert index.ready
    assert not len(index.search(query, 5))


def test_modules_load_in_any_order() -> None:
    """The neighbours' index may be imported before the user phase: their libraries clash in one order."""
    code = "import serving.ranking.neighbours, serving.user.user_phase"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
