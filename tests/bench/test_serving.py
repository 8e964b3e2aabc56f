"""`aif bench serving` at sizes that mean nothing: that every figure is measured, and that all score alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.serving import KEYS, measure_serving
from bench.serving_figures import check_scores, ratios
from bench.serving_table import serving_table
from bench.serving_world import Sizes, World
from schemas.errors import BadInput, Corrupt

#: Behaviours beyond a head's, beyond a chunk's, and few; blocks of the rival's counts begin at 256.
SIZES = Sizes(
    items=2_000,
    candidates=(50, 300),
    behaviours=(20, 100, 300),
    users=2,
    rounds=1,
    enough_s=0.01,
    load_s=0.1,
    compiled=False,
)


#: The fixture starts ten processes.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A filled folder."""
    yield tmp_path_factory.mktemp("bench-serving")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What a whole run prints."""
    return measure_serving([], SIZES, folder, lambda _: None)


def test_every_key_is_measured(found: dict[str, Any]) -> None:
    """A run without --only has each key, each of its shapes and percentiles, and all are positive numbers."""
    shapes = {f"{count}x{length}" for count in SIZES.candidates for length in SIZES.behaviours}
    for key in KEYS:
        figure = found[key]
        if key in ("inprocess_ms", "inprocess_c_ms", "numpy_ms", "torch_sequential_ms"):
            assert figure is not None or found[f"{key}_missing"]
            assert figure is None or set(figure) == shapes
        if key == "rocksdb_multi_get_ms":
            assert set(figure) == {str(count) for count in SIZES.candidates}
        if key.startswith("http_"):
            assert 0 < figure["p50"] <= figure["p99"]
        for value in figure.values() if isinstance(figure, dict) else [figure]:
            assert value is None or value > 0
    assert found["ratios"]["torch sequential / numba"] > 0
    assert found["items"] == SIZES.items and found["commit"] and found["machine"]["cores"]


def test_all_implementations_score_alike(found: dict[str, Any]) -> None:
    """Kernels and the network computed at request time give the same scores; the rival's bfloat16 is rougher."""
    differences = found["largest_difference"]
    assert {"numba", "numpy"} <= differences.keys()
    assert max(differences["numba"], differences["numpy"]) < 0.0005
    assert max(differences.values()) < 0.02


def test_a_filled_folder_is_used_again(found: dict[str, Any], folder: Path) -> None:
    """A second run measures over what the first has filled, and refuses a folder with something else."""
    again = measure_serving(["numpy_ms"], SIZES, folder, lambda _: None)
    assert set(again["numpy_ms"]) == set(found["numpy_ms"]) and "first_start_ms" not in again
    with pytest.raises(BadInput, match="--items 2000"):
        measure_serving(["numpy_ms"], Sizes(items=3_000), folder, lambda _: None)


def test_requests_are_distinct_items(found: dict[str, Any], folder: Path) -> None:
    """Candidates of a request are distinct rows, others for every seed, the same for the same."""
    world = World.open(folder)
    first, second = world.candidates(300, 1), world.candidates(300, 2)
    assert len(set(first.tolist())) == 300 and (first != second).any()
    assert (world.candidates(300, 1) == first).all()
    assert (np.diff(world.item_ids) > 0).all()


def test_another_network_is_found_out() -> None:
    """Scores that differ by more than rounding raise, and name who gave them."""
    exact = [0.1, 0.5, 0.9]
    told = check_scores({"torch float32": exact, "numba": [0.1, 0.5005, 0.9], "c (avx512)": [0.11, 0.5, 0.9]})
    assert told == {"largest_difference": {"numba": 0.0005, "c (avx512)": 0.01}}
    for name, theirs in (("numba", [0.1, 0.5, 0.898]), ("c (avx512)", [0.1, 0.5, 0.87])):
        with pytest.raises(Corrupt, match="differ from the network's"):
            check_scores({"torch float32": exact, name: theirs})
    assert check_scores({"numba": exact}) == {}


def test_ratios_are_of_the_main_shape() -> None:
    """A ratio is the rival's time over ours at the main shape; kernels that are not built have none."""
    found = {
        "inprocess_c_ms": None, "inprocess_ms": {"300x100": 2.0}, "torch_sequential_ms": {"300x100": 30.0},
        "rocksdb_multi_get_ms": {"300": 8.0},
    }  # fmt: skip
    assert ratios(found, SIZES) == {"torch sequential / numba": 15.0, "rocksdb multi_get alone / numba": 4.0}


def test_the_table_shows_what_was_measured(found: dict[str, Any]) -> None:
    """Every key of the output that is not about the machine stands in the table for people."""
    table = serving_table(found)
    for key in KEYS:
        assert key in table
    assert found["commit"] in table


def test_an_unknown_key_is_refused() -> None:
    """A key that is none raises before anything is filled, and says which there are."""
    with pytest.raises(BadInput, match="choose from inprocess_ms"):
        measure_serving(["speed"], SIZES, None, lambda _: None)
