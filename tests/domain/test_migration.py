"""A migrated row is the row that the new declarations would have made all along."""

from __future__ import annotations

import numpy as np
import pytest

from domain.feature_plan import PLAN, Plan
from domain.features import Feature
from domain.migration import migrated
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.errors import Corrupt

T0 = 1_700_000_000_000
OTHER = Plan.of(
    [
        Feature("total", "sum", ("like", "cart"), "x", "", 3_600_000),
        Feature("least", "min", ("cart",), "x", "", 300_000),
        Feature("breadth", "distinct", ("click",), "x", "", 7 * 86_400_000, of="category"),
        Feature("kinds", "top_categories", ("click",), "x", "", half_life_ms=60_000, k=3),
        Feature("last", "last_time", ("click", "like"), "x", ""),
    ]
)


def _row(length: int, plan: Plan, seed: int) -> tuple[dict, dict]:
    random = np.random.default_rng(seed)
    heads, chunks = {}, {}
    times = T0 + np.cumsum(random.choice([0, 900, 60_000, 3_600_000], length)) - random.choice([0, 90_000], length)
    place = np.arange(length)
    whole = EventBatch(
        place, place, 0 * place, random.integers(0, 99, length), times, random.integers(0, 14, length).astype("u1"),
        random.integers(0, 20, length), random.random(length) < 0.8,
        np.where(random.random(length) < 0.5, random.integers(0, 9, length) / 4, np.nan),
    )  # fmt: skip
    for start in range(0, length, 100):
        batch = whole.take(place[start : start + 100])
        folded = fold(heads, batch, 1, plan=plan, read_chunks=lambda _, held=chunks: held)
        heads |= folded.heads
        chunks |= folded.chunks
    return codec("user_head").decode(heads[0]), {number: chunk for (_, number), chunk in chunks.items()}


@pytest.mark.parametrize("length", [1, 50, 63, 64, 700, 9_000])
def test_migrating_equals_having_folded_the_new_declarations(length) -> None:
    """Byte for byte, in both directions, with all that went into chunks."""
    old, chunks = _row(length, PLAN, length)
    new, _ = _row(length, OTHER, length)
    assert migrated(old, chunks, OTHER) == new
    assert migrated(new, chunks, PLAN) == old


def test_a_user_beyond_the_sequence_keeps_exact_windows() -> None:
    """Of more than 10,000 behaviours the windows are untouched; declared features are of the last 10,000."""
    old, chunks = _row(11_000, PLAN, 3)
    chunks = {number: chunk for number, chunk in chunks.items() if chunk}
    row = migrated(old, chunks, OTHER)
    new, _ = _row(11_000, OTHER, 3)
    assert row["declarations"] == OTHER.fingerprint
    assert row["newest_event_time_ms"] == new["newest_event_time_ms"]
    assert row["tiles"] == new["tiles"]
    assert row["registers"] == new["registers"], "the last ten thousand reach beyond the longest window"


def test_a_missing_chunk_is_corrupt() -> None:
    """A row is not migrated from half a sequence."""
    old, _ = _row(700, PLAN, 1)
    with pytest.raises(Corrupt, match="missing"):
        migrated(old, {}, OTHER)
