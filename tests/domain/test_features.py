"""Declarations are checked when they are made."""

from __future__ import annotations

import pytest

from domain.features import FEATURES, Feature, level_of
from schemas.errors import BadInput

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_ms": None},
        {"window_ms": 61_000},
        {"window_ms": 30 * 24 * HOUR_MS},
        {"actions": ()},
        {"actions": ("clicked",)},
        {"aggregation": "median"},
        {"name": "two words"},
        {"over": ("view",)},
        {"k": 3},
        {"aggregation": "rate"},
        {"aggregation": "distinct"},
        {"aggregation": "decayed", "window_ms": None, "half_life_ms": 5},
        {"aggregation": "top_categories", "window_ms": None, "half_life_ms": HOUR_MS, "k": 99},
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(wrong) -> None:
    """A feature says what its aggregation needs, no more and no less, or cannot be made; the message names it."""
    right = {
        "name": "one",
        "aggregation": "count",
        "actions": ("click",),
        "owner": "x",
        "doc": "",
        "window_ms": HOUR_MS,
    }
    Feature(**right)
    with pytest.raises(BadInput, match=r"feature|window"):
        Feature(**{**right, **wrong})


def test_windows_are_any_multiple_of_a_tile_that_is_kept() -> None:
    """The coarsest tile that divides a window at least five times serves it."""
    windows = (300_000, 3_000_000, HOUR_MS, 20 * HOUR_MS, 24 * HOUR_MS, 120 * HOUR_MS, 168 * HOUR_MS)
    assert [level_of(window) for window in windows] == [0, 1, 1, 2, 2, 3, 3]


def test_names_are_given_once() -> None:
    """No two declared features share a name, and each says who answers for it and what it means."""
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert all(feature.owner and feature.doc for feature in FEATURES)
